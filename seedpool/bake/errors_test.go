package bake

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool/restore"
)

func TestReportShowsAllThatWasSeen(t *testing.T) {
	e := newError(StepDump, &restore.Error{Op: "dump", Err: errors.New("no"), Log: []string{"Error (criu/tty.c:1): tty: Found dangling tty"}}, []string{"listening", "bye"})
	for _, want := range []string{"dump container: ", "hint: the app holds a terminal", "last lines of the app:\n  listening\n  bye", "last lines of CRIU's log:\n  Error (criu/tty.c"} {
		if !strings.Contains(e.Report(), want) {
			t.Errorf("report lacks %q:\n%s", want, e.Report())
		}
	}
}

func TestErrorKeepsItsCause(t *testing.T) {
	e := newError(StepReady, fmt.Errorf("asking: %w", context.Canceled), nil)
	if !errors.Is(e, context.Canceled) || e.Error() != "wait until ready: asking: context canceled" || e.Report() != e.Error() {
		t.Errorf("error %q, report %q", e, e.Report())
	}
}

func TestCRIUsLogLeadsToAHint(t *testing.T) {
	for line, want := range map[string]string{
		"Error (criu/files-ext.c:102): Can't dump file 21 of that type [600] (anon_inode:[io_uring])": "UV_USE_IO_URING=0",
		"Error (criu/sk-inet.c:193): inet: Unsupported proto 262 for socket 1f":                       "multipathtcp=0",
		"Error (criu/cr-dump.c:300): Can't get rlimit 0: Operation not permitted":                     "CAP_SYS_RESOURCE",
		"Error (criu/sk-tcp.c:1): tcp: In-flight connection (l) for 5":                                "accepted",
		"Error (criu/sk-unix.c:1): unix: External socket is used. Consider using --ext-unix-sk":       "unix socket",
		"Error (criu/files-reg.c:1): Can't lookup mount=22 for fd=3 path=/x":                          "outside its container",
		"Error (criu/files-ext.c:1): Can't dump file 7 of that type [100600] (anon_inode:[perf])":     "starts cold",
		"Error (criu/image.c:1): write failed: No space left on device":                               "disk",
		"Error (criu/cr-dump.c:1): Dumping FAILED.":                                                   "",
	} {
		if got := criuHint([]string{"(00.1) fine", line}); (want == "" && got != "") || !strings.Contains(got, want) {
			t.Errorf("%s: hint %q", line, got)
		}
	}
}

func TestTimeoutHintNamesWhatListens(t *testing.T) {
	listener := func(s string) tcpSocket { return tcpSocket{local: netip.MustParseAddrPort(s), state: tcpListen} }
	http := Readiness{Kind: HTTP, Target: "http://127.0.0.1:8080/"}
	for _, c := range []struct {
		ready   Readiness
		sockets []tcpSocket
		want    string
	}{
		{http, nil, "nothing listens"},
		{http, []tcpSocket{listener("0.0.0.0:3000"), listener("[::]:3001")}, "0.0.0.0:3000, [::]:3001, not on port 8080"},
		{http, []tcpSocket{listener("0.0.0.0:8080")}, "check the path"},
		{Readiness{Kind: TCP, Target: "127.0.0.1:80"}, []tcpSocket{listener("0.0.0.0:8080")}, "not on port 80"},
		{Readiness{Kind: File, Target: "/x"}, nil, "allow more time"},
	} {
		if got := timeoutHint(c.ready, c.sockets); !strings.Contains(got, c.want) {
			t.Errorf("%s: hint %q, want %q", c.ready, got, c.want)
		}
	}
}

func TestExitHintTellsCausesApart(t *testing.T) {
	for status, want := range map[int]string{137: "memory", 126: "entrypoint", 127: "entrypoint", 1: "only lo", 0: "only lo"} {
		if got := exitHint(status); !strings.Contains(got, want) {
			t.Errorf("status %d: hint %q, want %q", status, got, want)
		}
	}
}

func TestManifestNeverNamesARootCgroup(t *testing.T) {
	for _, path := range []string{"", "/", "sprout/x", "/sprout/../..", "/sprout/"} {
		if err := (manifest{Cgroup: path}).check(); err == nil {
			t.Errorf("%q was accepted", path)
		}
	}
	if err := (manifest{Cgroup: "/sprout/bakes/x"}).check(); err != nil {
		t.Error(err)
	}
}

func TestCleanupReadsOnlyWholeManifests(t *testing.T) {
	dir := t.TempDir()
	if diff := cmp.Diff(nil, CleanupDir(t.Context(), dir+"/absent")); diff != "" {
		t.Errorf("a directory that does not exist: %s", diff)
	}
	writeFile(t, dir+"/bake.json", `{"id":"x","cgroup":"/"}`)
	if err := CleanupDir(t.Context(), dir); err == nil {
		t.Error("a manifest that names the root cgroup was followed")
	}
	writeFile(t, dir+"/bake.json", `{"id":`)
	if err := CleanupDir(t.Context(), dir); err == nil {
		t.Error("half a manifest was followed")
	}
}
