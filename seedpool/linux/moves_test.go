package linux

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"
)

func TestPrimedMoveDoesNotWaitForAGracePeriod(t *testing.T) {
	a, b := Cgroup{Path: "/moves-" + strconv.Itoa(os.Getpid()) + "-a"}, Cgroup{Path: "/moves-" + strconv.Itoa(os.Getpid()) + "-b"}
	for _, c := range []Cgroup{a, b} {
		if err := c.Create(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := c.Remove(); err != nil {
				t.Error(err)
			}
		})
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
	})
	var primer MovePrimer
	defer eventually(t, "the primer has ended", func() bool {
		links, err := filepath.Glob("/proc/self/fd/*")
		return err == nil && !slices.ContainsFunc(links, func(link string) bool {
			file, err := os.Readlink(link)
			return err == nil && filepath.Base(file) == "cgroup.procs"
		})
	})
	move := func(to Cgroup, primed bool) time.Duration {
		<-time.After(100 * time.Millisecond)
		if primed {
			primer.For(60 * time.Millisecond)
			<-time.After(40 * time.Millisecond)
		}
		began := time.Now()
		if err := to.AttachUnified(cmd.Process.Pid); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	var quiet, primed time.Duration
	for range 5 {
		quiet += move(a, false)
		primed += move(b, true)
	}
	t.Logf("quiet %v, primed %v", quiet/5, primed/5)
	if primed > quiet {
		t.Errorf("five primed moves took %v, five others %v", primed, quiet)
	}
}
