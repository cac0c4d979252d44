package integration

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

func TestBadInputIsRefusedWithTheThingAndTheFix(t *testing.T) {
	bakedPython(t, house)
	image := stack.Ref("python-demo")
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"unknown seed in pool set":   {[]string{"pool", "set", "nowhere", "--spares", "1"}, []string{"nowhere", "seed"}},
		"unknown seed in inspect":    {[]string{"seed", "inspect", "nowhere"}, []string{"nowhere"}},
		"unknown seed in rm":         {[]string{"seed", "rm", "nowhere"}, []string{"nowhere"}},
		"variable that is secret":    {[]string{"seed", "bake", "--mode", "clone", "--name", "x", "--image", image, "--ready", "tcp://:1", "--env", "DB_PASSWORD=geheim"}, []string{"variable DB_PASSWORD", "--late-env DB_PASSWORD", "--allow-secrets"}},
		"readiness of unknown kind":  {[]string{"seed", "bake", "--mode", "clone", "--name", "x", "--image", image, "--ready", "ping://x"}, []string{"ping", "http://", "tcp://", "log="}},
		"readiness with bad regexp":  {[]string{"seed", "bake", "--mode", "clone", "--name", "x", "--image", image, "--ready", "log=("}, []string{"log", "("}},
		"image that is absent":       {[]string{"seed", "bake", "--mode", "clone", "--name", "x", "--image", "docker.io/library/absent", "--ready", "tcp://:1"}, []string{"absent:latest", "pull"}},
		"name that is no name":       {[]string{"seed", "bake", "--mode", "clone", "--name", "../x", "--image", image, "--ready", "tcp://:1"}, []string{"../x", "name"}},
		"container without a record": {[]string{"explain", "nowhere"}, []string{"nowhere", "sprout ps"}},
		"verb with nothing":          {[]string{"seed", "inspect"}, []string{"missing", "usage"}},
		"negative spares":            {[]string{"pool", "set", "python", "--spares", "-1"}, []string{"-1"}},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := house.Sprout(t.Context(), c.args...)
			if err == nil {
				t.Fatalf("accepted: %s", out)
			}
			for _, word := range c.says {
				if !strings.Contains(out, word) {
					t.Errorf("%q is not in: %s", word, out)
				}
			}
		})
	}
}

func TestBakeThatFailsSaysWhatItSawAndLeavesNothing(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "tiny-demo")
	// One bake of each mode before the census: their parent cgroups are kept.
	for _, mode := range []string{"clone", "prestart"} {
		if out, err := s.Sprout(t.Context(), "seed", "bake", "--mode", mode, "--name", "fails", "--image", stack.Ref("tiny-demo"), "--ready", "tcp://:1", "--", "false"); err == nil {
			t.Fatalf("baked: %s", out)
		}
	}
	before := rested(t, s)
	for name, c := range map[string]struct {
		args []string
		says []string
	}{
		"app that ends":        {[]string{"--ready", "tcp://:1", "--", "sh", "-c", "echo last words; exit 3"}, []string{"last words", "3"}},
		"app that never is up": {[]string{"--ready", "tcp://:1", "--ready-timeout", "2s", "--", "sh", "-c", "echo still starting; sleep 1000"}, []string{"still starting", "2s"}},
	} {
		for _, mode := range []string{"clone", "prestart"} {
			t.Run(name+" "+mode, func(t *testing.T) {
				out, err := s.Sprout(t.Context(), append([]string{"seed", "bake", "--mode", mode, "--name", "fails", "--image", stack.Ref("tiny-demo")}, c.args...)...)
				if err == nil {
					t.Fatalf("baked: %s", out)
				}
				for _, word := range c.says {
					if !strings.Contains(out, word) {
						t.Errorf("%q is not in: %s", word, out)
					}
				}
			})
		}
	}
	if list, err := s.Sprout(t.Context(), "seed", "ls"); err != nil || strings.Contains(list, "fails") {
		t.Errorf("seeds: %v\n%s", err, list)
	}
	if left := settled(t, s, before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

func TestEachReadinessMakesASeed(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "tiny-demo")
	for name, c := range map[string][]string{
		"log":  {"--ready", "log=^up$", "--", "sh", "-c", "echo up; sleep 1000"},
		"file": {"--ready", "file=/tmp/up", "--", "sh", "-c", "touch /tmp/up; sleep 1000"},
		"exec": {"--ready", "exec=test -e /tmp/up", "--", "sh", "-c", "touch /tmp/up; sleep 1000"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.Sprout(t.Context(), append([]string{"seed", "bake", "--mode", "clone", "--name", name, "--image", stack.Ref("tiny-demo")}, c...)...); err != nil {
				t.Fatal(err)
			}
			args := append([]string{"run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter, stack.Ref("tiny-demo"), "ready-" + name}, c[3:]...)
			if _, err := s.Ctr(t.Context(), args...); err != nil {
				t.Fatal(err)
			}
			wantRung(t, s, "ready-"+name, "restore")
			remove(t, s, "ready-"+name)
		})
	}
}

func TestTwoBakesOfOneNameDoNotRunAtOnce(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "tiny-demo")
	bake := func(ctx context.Context) (string, error) {
		return s.Sprout(ctx, "seed", "bake", "--mode", "clone", "--name", "twice", "--image", stack.Ref("tiny-demo"), "--ready", "file=/tmp/up", "--ready-timeout", "20s",
			"--", "sh", "-c", "sleep 2; touch /tmp/up; sleep 1000")
	}
	first := make(chan error, 1)
	go func() {
		_, err := bake(t.Context())
		first <- err
	}()
	second := make(chan error, 1)
	go func() {
		_, err := bake(t.Context())
		second <- err
	}()
	a, b := <-first, <-second
	if (a == nil) == (b == nil) {
		t.Fatalf("one must win and one must be refused: %v / %v", a, b)
	}
	for _, err := range []error{a, b} {
		if err != nil && !strings.Contains(err.Error(), "twice") {
			t.Errorf("the refusal does not name the seed: %v", err)
		}
	}
}

func TestConfigurationWithAnUnknownKeyIsRefused(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sproutd.toml")
	if err := os.WriteFile(file, []byte("colour = \"green\"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := house.Command(t.Context(), "sproutd", "--config", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "colour") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestDefaultConfigurationIsAccepted(t *testing.T) {
	out, err := house.Command(t.Context(), "sproutd", "config", "default").Output()
	if err != nil || !strings.Contains(string(out), "run_dir") {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestDoctorFindsThisMachineFit(t *testing.T) {
	out, err := house.Sprout(t.Context(), "doctor")
	for _, name := range []string{"sproutd", "criu", "containerd", "snapshotter wired", "shim on containerd's path"} {
		if !strings.Contains(out, name) {
			t.Errorf("no line for %s", name)
		}
	}
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
