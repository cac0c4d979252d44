package integration

import (
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// cycles is how often a container is started and removed on a rung before what is left is counted; `make soak` has it done more often.
func cycles(t *testing.T, n int) int {
	t.Helper()
	if more := os.Getenv("SPROUT_CYCLES"); more != "" {
		var err error
		if n, err = strconv.Atoi(more); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

// census is everything that a start could leave behind. Only what belongs to the stack is counted: by its directory in arguments, environments, mounts, and by
// its name, which its containers' cgroups carry.
type census map[string]int

func count(t *testing.T, s *stack.Stack) census {
	t.Helper()
	c := census{}
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	mine := filepath.Base(s.Dir)
	namespaces := map[string]bool{}
	for _, dir := range procs {
		if !mentions(mine, filepath.Join(dir, "cgroup"), filepath.Join(dir, "environ"), filepath.Join(dir, "cmdline")) {
			continue
		}
		c["processes"]++
		if ns, err := os.Readlink(filepath.Join(dir, "ns/net")); err == nil {
			namespaces[ns] = true
		}
	}
	c["network namespaces"] = len(namespaces)
	mounts, err := os.ReadFile("/proc/1/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	c["mounts"] = strings.Count(string(mounts), mine)
	c["cgroups"] = cgroups(t, mine)
	for _, dir := range []string{"run", "lib/seeds", "lib/snapshots/snapshots"} {
		c["files in "+dir] = entries(filepath.Join(s.Dir, dir))
	}
	c["files in state"] = bundles(filepath.Join(s.Dir, "state"))
	c["runc states"] = entries(filepath.Join("/run/containerd/runc", s.Namespace))
	for name, pid := range map[string]int{"containerd": s.ContainerdPID(), "sproutd": s.SproutdPID()} {
		fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		c["descriptors of "+name] = len(fds)
	}
	return c
}

// mentions says whether one of the files names the stack. A process that ends while it is looked at names nothing.
func mentions(name string, files ...string) bool {
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil && strings.Contains(string(data), name) {
			return true
		}
	}
	return false
}

// cgroups counts the cgroups in all hierarchies whose path names the stack.
func cgroups(t *testing.T, name string) int {
	t.Helper()
	n := 0
	err := filepath.WalkDir("/sys/fs/cgroup", func(path string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.Contains(path, name) {
			n++
		}
		return nil // A cgroup that goes away while it is looked at is no error.
	})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// rested takes the census when nothing is being made behind the last start: it has been the same for a second.
func rested(t *testing.T, s *stack.Stack) census {
	t.Helper()
	last, since := count(t, s), time.Now()
	for deadline := since.Add(30 * time.Second); time.Since(since) < time.Second && time.Now().Before(deadline); {
		time.Sleep(100 * time.Millisecond)
		if now := count(t, s); !maps.Equal(now, last) {
			last, since = now, time.Now()
		}
	}
	return last
}

// entries counts what lies below a directory; an instance's directory counts once, with whatever CRIU has logged in it.
func entries(root string) int {
	n := 0
	_ = filepath.WalkDir(root, func(path string, _ os.DirEntry, err error) error {
		if err == nil {
			n++
		}
		if filepath.Base(filepath.Dir(path)) == "instances" {
			return filepath.SkipDir
		}
		return nil
	})
	return n
}

// bundles counts what containerd has of tasks. A hidden directory does not count: containerd gives a bundle that it removes such a name, and when it is killed then, nobody
// ever looks at it again.
func bundles(state string) int {
	n := 0
	_ = filepath.WalkDir(state, func(_ string, d os.DirEntry, err error) error {
		if err == nil && d.IsDir() && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if err == nil {
			n++
		}
		return nil
	})
	return n
}

// settled takes the census until it equals want or half a minute has passed: network namespaces and cgroups go a moment after their last process.
func settled(t *testing.T, s *stack.Stack, want census) (left []string) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		left = nil
		for what, now := range count(t, s) {
			// A daemon may keep a few more descriptors (connections, epoll) than at its very first start; tens of cycles would show as tens.
			slack := 0
			if strings.HasPrefix(what, "descriptors") {
				slack = 8
			}
			if now > want[what]+slack {
				left = append(left, fmt.Sprintf("%s: %d before, %d after", what, want[what], now))
			}
		}
		if len(left) > 0 && time.Now().After(deadline) {
			sort.Strings(left)
			list, _ := exec.Command("find", filepath.Join(s.Dir, "run"), filepath.Join(s.Dir, "state")).CombinedOutput()
			return append(left, string(list))
		}
		if len(left) == 0 {
			return nil
		}
		// A removal in the instant in which containerd's collector ends is not seen by it until the next one.
		_, _ = s.Ctr(contextOf(t), "content", "prune", "references")
		time.Sleep(200 * time.Millisecond)
	}
}

func TestCyclesLeaveNothingBehind(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	t.Run("cold", func(t *testing.T) { leavesNothing(t, s, "cold", 0, cycles(t, 25), "--env", "NOT_IN_ANY_SEED=1") })
	t.Run("restore", func(t *testing.T) { leavesNothing(t, s, "restore", 0, cycles(t, 25)) })
	t.Run("thaw", func(t *testing.T) { leavesNothing(t, s, "thaw", 3, cycles(t, 25)) })
}

func TestClonesLeaveNothingBehind(t *testing.T) {
	leavesNothing(t, wake{"fork", "fork", 0, true}.ready(t), "fork", 0, cycles(t, 20))
}

// leavesNothing takes the census before and after so many starts on a rung.
func leavesNothing(t *testing.T, s *stack.Stack, rung string, spares, cycles int, args ...string) {
	t.Helper()
	seed := bakedPython(t, s)
	setPool(t, s, seed, spares)
	cycle(t, s, seed, rung, spares, args, 0)
	setPool(t, s, seed, spares) // the spare that this start took is not missing from the census
	before := rested(t, s)
	for i := 1; i <= cycles; i++ {
		cycle(t, s, seed, rung, spares, args, i)
	}
	if left := settled(t, s, before); len(left) > 0 {
		t.Errorf("after %d cycles:\n%s", cycles, strings.Join(left, "\n"))
	}
}

// cycle starts one container on a rung, makes sure that it was that rung, and removes it.
func cycle(t *testing.T, s *stack.Stack, seed, rung string, spares int, args []string, i int) {
	t.Helper()
	if spares > 0 {
		setPool(t, s, seed, spares)
	}
	id := fmt.Sprintf("cycle-%s-%d", rung, i)
	list := append([]string{"run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter}, args...)
	if _, err := s.Ctr(t.Context(), append(list, stack.Ref("python-demo"), id)...); err != nil {
		t.Fatal(err)
	}
	wantRung(t, s, id, rung)
	remove(t, s, id)
}
