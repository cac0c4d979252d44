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

func TestPrimerEnds(t *testing.T) {
	var primer MovePrimer
	primer.For(60 * time.Millisecond)
	eventually(t, "the primer works", priming)
	eventually(t, "the primer has ended", func() bool { return !priming() })
}

// priming says whether a primer of this process is at work.
func priming() bool {
	links, err := filepath.Glob("/proc/self/fd/*")
	return err == nil && slices.ContainsFunc(links, func(link string) bool {
		file, err := os.Readlink(link)
		return err == nil && filepath.Base(file) == "cgroup.procs"
	})
}

// BenchmarkMove moves a process to another cgroup after 100 quiet ms, by itself and with a primer: the first waits for an RCU grace period where the kernel has one.
func BenchmarkMove(b *testing.B) {
	var primer MovePrimer
	b.Cleanup(func() { eventually(b, "the primer has ended", func() bool { return !priming() }) })
	for name, prime := range map[string]func(){
		"quiet": func() { <-time.After(40 * time.Millisecond) },
		"primed": func() {
			primer.For(60 * time.Millisecond)
			<-time.After(40 * time.Millisecond)
		},
	} {
		b.Run(name, func(b *testing.B) {
			pid, groups := movable(b)
			for n := range b.N {
				b.StopTimer()
				<-time.After(100 * time.Millisecond)
				prime()
				b.StartTimer()
				if err := groups[n%2].AttachUnified(pid); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// movable is a process and two cgroups for it to be in.
func movable(b *testing.B) (pid int, groups [2]Cgroup) {
	b.Helper()
	for i := range groups {
		groups[i] = Cgroup{Path: "/moves-" + strconv.Itoa(os.Getpid()) + "-" + strconv.Itoa(i)}
		if err := groups[i].Create(); err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() {
			if err := groups[i].Remove(); err != nil {
				b.Error(err)
			}
		})
	}
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := cmd.Process.Kill(); err != nil {
			b.Error(err)
		}
		_ = cmd.Wait()
	})
	return cmd.Process.Pid, groups
}
