package bake

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestReadinessForms(t *testing.T) {
	for in, want := range map[string]Readiness{
		"http://:8080/path?q=1":        {Kind: HTTP, Target: "http://127.0.0.1:8080/path?q=1"},
		"http://127.0.0.1:8080/":       {Kind: HTTP, Target: "http://127.0.0.1:8080/"},
		"http://localhost":             {Kind: HTTP, Target: "http://127.0.0.1:80/"},
		"http://[::1]:8080/x":          {Kind: HTTP, Target: "http://[::1]:8080/x"},
		"http://0.0.0.0:8080":          {Kind: HTTP, Target: "http://127.0.0.1:8080/"},
		"tcp://:6379":                  {Kind: TCP, Target: "127.0.0.1:6379"},
		"tcp=:6379":                    {Kind: TCP, Target: "127.0.0.1:6379"},
		"tcp://[::]:6379":              {Kind: TCP, Target: "[::1]:6379"},
		"log=started in [0-9]+ ms":     {Kind: Log, Target: "started in [0-9]+ ms"},
		"log=listening on http://.*":   {Kind: Log, Target: "listening on http://.*"},
		"file=/run/../run/app.ready":   {Kind: File, Target: "/run/app.ready"},
		"exec=redis-cli -p 6379 ping":  {Kind: Exec, Target: "redis-cli -p 6379 ping"},
		"exec=curl http://127.0.0.1/x": {Kind: Exec, Target: "curl http://127.0.0.1/x"},
	} {
		t.Run(in, func(t *testing.T) {
			got, err := ParseReadiness(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			again, err := ParseReadiness(got.String())
			if err != nil {
				t.Fatalf("its own form %q is refused: %v", got, err)
			}
			if diff := cmp.Diff(got, again); diff != "" {
				t.Errorf("its own form %q means something else: %s", got, diff)
			}
		})
	}
}

func TestWrongReadinessShowsTheForms(t *testing.T) {
	for in, reason := range map[string]string{
		"":                          "unknown",
		"8080":                      "unknown",
		"udp://:53":                 "unknown",
		"https://:8443/":            "https is not spoken",
		"http://:0/":                "port",
		"http://:http/":             "port",
		"http://example.org/":       "only lo",
		"http://10.0.0.1:80/":       "only lo",
		"http://u:secret@:80/":      "carries a user",
		"http=:8080/":               "http://",
		"tcp://6379":                "host:port",
		"tcp://:70000":              "port",
		"tcp=":                      "host:port",
		"log=":                      "empty",
		"log=(":                     "missing closing",
		"file=run/ready":            "not absolute",
		"file=":                     "not absolute",
		"exec=":                     "empty",
		"exec=sh -c 'true":          "not closed",
		"exec=true \\":              "backslash",
		"command=true":              "unknown",
		"http://127.0.0.1:80:80/":   "",
		"http://127.0.0.1:80/%zz":   "",
		"http://[::1:80/":           "",
		"http://\x00/":              "",
		"log=" + "[" + "unfinished": "missing closing",
	} {
		t.Run(in, func(t *testing.T) {
			_, err := ParseReadiness(in)
			if err == nil {
				t.Fatal("it was accepted")
			}
			if !strings.Contains(err.Error(), reason) || !strings.Contains(err.Error(), readinessForms) {
				t.Errorf("error %q does not say %q and the accepted forms", err, reason)
			}
		})
	}
}

func TestReadinessSurvivesTheAPI(t *testing.T) {
	want := Readiness{Kind: HTTP, Target: "http://127.0.0.1:8080/", Timeout: 3 * time.Second}
	got, err := ReadinessOf(want.API())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestReadinessOfTheAPIIsChecked(t *testing.T) {
	for _, in := range []*api.Readiness{
		nil,
		{Kind: "http", Target: "http://example.org/"},
		{Kind: "https", Target: "https://:8443/"},
		{Kind: "log", Target: "("},
		{Kind: "tcp", Target: ":80", TimeoutNanoseconds: -1},
	} {
		if got, err := ReadinessOf(in); err == nil {
			t.Errorf("%v was accepted as %v", in, got)
		}
	}
}

func TestCommandLineIsCutIntoWords(t *testing.T) {
	for in, want := range map[string][]string{
		"":                          nil,
		"  true  ":                  {"true"},
		`sh -c 'a b "c" \d'`:        {"sh", "-c", `a b "c" \d`},
		`sh -c "a 'b' \"c\""`:       {"sh", "-c", `a 'b' "c"`},
		`test -e /a\ b`:             {"test", "-e", "/a b"},
		`x "" ''`:                   {"x", "", ""},
		"a\tb\nc":                   {"a", "b", "c"},
		`--name="two words"after x`: {"--name=two wordsafter", "x"},
	} {
		got, err := SplitWords(in)
		if err != nil {
			t.Errorf("%q: %v", in, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%q: %s", in, diff)
		}
	}
}
