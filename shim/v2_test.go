package shim

import (
	"os"
	"strings"
	"testing"

	"github.com/containerd/cgroups/v3"
)

// onV2Only says whether the host has cgroup v2 alone. On the test's machine that is a private mount of it, without controllers.
func onV2Only() bool { return cgroups.Mode() == cgroups.Unified }

// TestWokenTasksOnAHostWithCgroupV2Only runs the tests that need no controller once more, in a mount namespace that shows cgroup v2
// where this machine has v1.
func TestWokenTasksOnAHostWithCgroupV2Only(t *testing.T) {
	if onV2Only() {
		return // This is it.
	}
	again := []string{
		"Thawed", "Restored", "FrozenTask", "TaskThatWasNot", "SignalBefore", "KillAll", "Exec", "ExitOfTheTask", "Pids", "Paused", "Hook",
		"Fallback", "FallsBack", "Instance", "LateMounts", "HostNetwork",
	}
	script := `mount --make-rprivate / && mount -t cgroup2 none /sys/fs/cgroup && exec "$0" -test.count=1 -test.run "$1"`
	out, err := child(t, "/usr/bin/unshare", "-m", "/bin/sh", "-c", script, os.Args[0], "^Test.*("+strings.Join(again, "|")+")")
	if err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	if !strings.Contains(out, "PASS") {
		t.Errorf("nothing ran: %s", out)
	}
}
