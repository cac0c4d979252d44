package linux

import (
	"os"
	"strconv"
	"strings"
	"testing"
)

func TestRlimitsAreThoseThatWereSet(t *testing.T) {
	p := sleeper(t)
	want := Rlimit{"RLIMIT_NOFILE", 100, 200}
	must(t, SetRlimits(p.pid(), []Rlimit{want, {"RLIMIT_CORE", 0, 0}}))
	if got := get[Rlimit](t)(GetRlimit(p.pid(), "RLIMIT_NOFILE")); got != want {
		t.Errorf("got %v", got)
	}
	for _, line := range lines("/proc/" + strconv.Itoa(p.pid()) + "/limits") {
		if strings.HasPrefix(line, "Max open files") && strings.Join(strings.Fields(line), " ") != "Max open files 100 200 files" {
			t.Errorf("the kernel says %q", line)
		}
	}
	for _, wrong := range []Rlimit{{"RLIMIT_OTHER", 1, 1}, {"RLIMIT_NOFILE", 2, 1}} {
		if err := SetRlimits(p.pid(), []Rlimit{wrong}); err == nil {
			t.Errorf("%v: no error", wrong)
		}
	}
	if _, err := GetRlimit(p.pid(), "NOFILE"); err == nil {
		t.Error("an unknown limit is read")
	}
}

func TestOOMScoreIsTheOneThatWasSet(t *testing.T) {
	p := sleeper(t)
	must(t, SetOOMScore(p.pid(), 321))
	if got := lines("/proc/" + strconv.Itoa(p.pid()) + "/oom_score_adj"); got[0] != "321" {
		t.Errorf("got %s", got[0])
	}
	if err := SetOOMScore(p.pid(), 1001); err == nil {
		t.Error("a score beyond the scale is taken")
	}
	if err := SetOOMScore(1<<30, 0); !os.IsNotExist(err) {
		t.Errorf("no process: %v", err)
	}
}
