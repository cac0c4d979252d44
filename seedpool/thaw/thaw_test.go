package thaw

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// instance is a busy process in a cgroup of its own.
type instance struct {
	linux.Cgroup
	cmd   *exec.Cmd
	pid   int
	start uint64
}

func newInstance(t *testing.T) *instance {
	t.Helper()
	i := &instance{Cgroup: linux.Cgroup{Path: fmt.Sprintf("/sprout-thaw-test-%d", os.Getpid())}}
	must(t, i.Create())
	i.cmd = exec.Command("sh", "-c", "while :; do :; done")
	must(t, i.cmd.Start())
	t.Cleanup(func() {
		_ = i.cmd.Process.Kill()
		must(t, i.Kill())
		_ = i.cmd.Wait()
		must(t, i.Remove())
	})
	i.pid = i.cmd.Process.Pid
	var err error
	i.start, err = linux.StartTime(i.pid)
	must(t, err)
	must(t, i.Attach(i.pid))
	return i
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (i *instance) used(t *testing.T) time.Duration {
	t.Helper()
	d, err := i.CPU()
	must(t, err)
	return d
}

func TestHeldInstanceUsesNoCPUAndRunsWhenReleased(t *testing.T) {
	i := newInstance(t)
	if err := Ready(i.Cgroup, i.pid, i.start); err == nil {
		t.Error("a running instance is called ready")
	}
	must(t, Hold(t.Context(), i.Cgroup))
	must(t, Ready(i.Cgroup, i.pid, i.start))
	// It is called frozen some microseconds before it has left its CPU.
	time.Sleep(10 * time.Millisecond)
	before := i.used(t)
	time.Sleep(200 * time.Millisecond)
	if after := i.used(t); after != before {
		t.Errorf("it ran for %s while held", after-before)
	}
	must(t, Release(i.Cgroup))
	for deadline := time.Now().Add(5 * time.Second); i.used(t) == before; {
		if time.Now().After(deadline) {
			t.Fatal("it does not run after its release")
		}
	}
}

func TestInstanceThatHasEndedIsNotReady(t *testing.T) {
	i := newInstance(t)
	must(t, Hold(t.Context(), i.Cgroup))
	if err := Ready(i.Cgroup, i.pid, i.start+1); !errors.Is(err, ErrGone) {
		t.Errorf("another process with the same pid: %v", err)
	}
	must(t, i.Kill())
	must(t, i.WaitEmpty(t.Context()))
	if err := Ready(i.Cgroup, i.pid, i.start); !errors.Is(err, ErrGone) {
		t.Errorf("a zombie: %v", err)
	}
	_ = i.cmd.Wait()
	if err := Ready(i.Cgroup, i.pid, i.start); !errors.Is(err, ErrGone) {
		t.Errorf("a reaped one: %v", err)
	}
	must(t, i.Remove())
	if err := Ready(i.Cgroup, i.pid, i.start); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("without its cgroup: %v", err)
	}
}

func TestInstanceIsReadyInItsOwnCgroupOnly(t *testing.T) {
	i := newInstance(t)
	below := linux.Cgroup{Path: i.Path + "/below"}
	must(t, below.Create())
	must(t, below.Attach(i.pid))
	must(t, Hold(t.Context(), i.Cgroup))
	if err := Ready(i.Cgroup, i.pid, i.start); err != nil {
		t.Errorf("in a cgroup below: %v", err)
	}
	must(t, linux.Cgroup{Path: "/"}.Attach(i.pid))
	err := Ready(i.Cgroup, i.pid, i.start)
	if err == nil || errors.Is(err, ErrGone) {
		t.Errorf("moved away: %v", err)
	}
}
