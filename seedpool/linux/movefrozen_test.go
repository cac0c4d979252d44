package linux

import (
	"path/filepath"
	"slices"
	"testing"
)

// twoCgroups are a cgroup that holds a frozen process, and one that is frozen and empty.
func twoCgroups(t *testing.T) (from, to Cgroup, p *process) {
	from = cgroup(t)
	to = Cgroup{Path: from.Path + "-to"}
	must(t, to.Create())
	t.Cleanup(func() {
		must(t, to.Kill())
		must(t, to.Remove())
	})
	p = start(t, nil, "sh", "-c", "while :; do echo on; done")
	p.line(t)
	must(t, from.Attach(p.pid()))
	must(t, from.Freeze(t.Context()))
	must(t, to.SetFrozen(true))
	return from, to, p
}

func everywhere(t *testing.T, c Cgroup) (dirs []string) {
	for _, root := range get[[]string](t)(Hierarchies()) {
		dirs = append(dirs, c.in(root))
	}
	return dirs
}

func TestMoveFrozenMovesInEveryHierarchyAndLetsNothingRun(t *testing.T) {
	from, to, p := twoCgroups(t)
	ran := stopped(t, p.pid())
	must(t, from.MoveFrozen([]int{p.pid()}, everywhere(t, to)))
	eventually(t, "it is frozen where it is now", func() bool { return get[bool](t)(to.Frozen()) })
	for _, dir := range everywhere(t, to) {
		if pids := get[[]int](t)(readProcs(dir)); !slices.Equal(pids, []int{p.pid()}) {
			t.Errorf("%s: processes %v, want %d", dir, pids, p.pid())
		}
	}
	// What it may use is a look at whether it is still to be frozen: not the millisecond that it takes to say something.
	if now := stopped(t, p.pid()); now-ran > 1e6 {
		t.Errorf("it ran for %d ns", now-ran)
	}
	must(t, to.Thaw())
	eventually(t, "it runs again", func() bool { return schedstat(t, p.pid()) > ran+2e6 || p.out.Buffered() >= 0 && p.line(t) == "on" })
}

func TestKillEndsWhatAMoveThatWasCutLeftHeld(t *testing.T) {
	for _, where := range []string{"from", "to"} {
		t.Run(where, func(t *testing.T) {
			from, to, p := twoCgroups(t)
			if root := get[string](t)(from.legacyFreezer()); root != "" {
				must(t, writeControl(filepath.Join(from.in(root), freezerState), "FROZEN"))
			}
			must(t, to.AttachUnified(p.pid()))
			if where == "from" {
				must(t, p.Process.Kill())
				must(t, from.Kill())
			} else {
				must(t, to.Kill())
			}
			must(t, to.WaitEmpty(t.Context()))
			_ = p.Wait()
		})
	}
}

func TestMoveFrozenOfAProcessThatIsNoneLeavesNothingHeld(t *testing.T) {
	from, to, p := twoCgroups(t)
	if err := from.MoveFrozen([]int{p.pid(), 1 << 30}, everywhere(t, to)); err == nil {
		t.Error("no error")
	}
	must(t, from.Kill())
	must(t, to.Kill())
	must(t, to.WaitEmpty(t.Context()))
}
