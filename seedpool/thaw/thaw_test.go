package thaw

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestHeldInstanceUsesNoCPUAndRunsWhenReleased(t *testing.T) {
	c := linux.Cgroup{Path: fmt.Sprintf("/sprout-thaw-test-%d", os.Getpid())}
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	busy := exec.Command("sh", "-c", "while :; do :; done")
	if err := busy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = c.Kill()
		_ = busy.Wait()
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	pid := busy.Process.Pid
	start, err := linux.StartTime(pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Attach(pid); err != nil {
		t.Fatal(err)
	}
	if err := Ready(c, pid, start); err == nil {
		t.Error("a running instance is called ready")
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := Hold(ctx, c); err != nil {
		t.Fatal(err)
	}
	if err := Ready(c, pid, start); err != nil {
		t.Error(err)
	}
	before := cpu(t, c)
	time.Sleep(200 * time.Millisecond)
	if after := cpu(t, c); after != before {
		t.Errorf("it ran for %s while held", after-before)
	}
	if err := Release(c); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); cpu(t, c) == before; {
		if time.Now().After(deadline) {
			t.Fatal("it does not run after its release")
		}
	}
	if err := Ready(c, pid, start+1); !errors.Is(err, ErrGone) {
		t.Errorf("another process with the same pid: %v", err)
	}
}

func cpu(t *testing.T, c linux.Cgroup) time.Duration {
	t.Helper()
	d, err := c.CPU()
	if err != nil {
		t.Fatal(err)
	}
	return d
}
