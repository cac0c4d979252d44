package linux

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// onUnified are the tests that hold on a host with cgroup v2 only as well.
const onUnified = "^(TestCgroup|TestFreezer|TestProbe)"

func TestEverythingHoldsOnAHostWithCgroupV2Only(t *testing.T) {
	var out strings.Builder
	if code := again("unified", &out, "-test.run", onUnified, "-test.v"); code != 0 {
		t.Fatalf("exit code %d:\n%s", code, out.String())
	}
	if ran := strings.Count(out.String(), "--- PASS: Test"); ran < 10 {
		t.Errorf("only %d tests ran:\n%s", ran, out.String())
	}
}

func TestCgroupHierarchiesAreThoseThatAreVisible(t *testing.T) {
	list := get[[]string](t)(Hierarchies())
	unified := get[string](t)(UnifiedRoot())
	if os.Getenv(roleEnv) == "unified" {
		if diff := cmp.Diff([]string{cgroupMounts}, list); diff != "" {
			t.Error(diff)
		}
		return
	}
	if list[len(list)-1] != unified {
		t.Errorf("the last of %v is not %s", list, unified)
	}
	for i, root := range list {
		var st unix.Statfs_t
		must(t, unix.Statfs(root, &st))
		want := int64(unix.CGROUP_SUPER_MAGIC)
		if i == len(list)-1 {
			want = unix.CGROUP2_SUPER_MAGIC
		}
		if int64(st.Type) != want {
			t.Errorf("%s is of type %x, want %x", root, st.Type, want)
		}
	}
	// Every hierarchy that the kernel puts a process into is there.
	if want := len(lines("/proc/self/cgroup")); len(list) != want {
		t.Errorf("%d hierarchies, want %d: %v", len(list), want, list)
	}
}

func TestCgroupHierarchiesLeaveOutWhatCannotBeUsed(t *testing.T) {
	for _, c := range []struct {
		why  string
		info mountinfo.Info
		want bool
	}{
		{"v2", mountinfo.Info{FSType: "cgroup2", Root: "/", Mountpoint: "/sys/fs/cgroup", Options: "rw,nosuid"}, true},
		{"v1", mountinfo.Info{FSType: "cgroup", Root: "/", Mountpoint: "/sys/fs/cgroup/cpu", Options: "rw"}, true},
		{"read-only", mountinfo.Info{FSType: "cgroup", Root: "/", Mountpoint: "/sys/fs/cgroup/cpu", Options: "ro,nosuid"}, false},
		{"a part of one", mountinfo.Info{FSType: "cgroup", Root: "/docker/1", Mountpoint: "/sys/fs/cgroup/cpu", Options: "rw"}, false},
		{"elsewhere", mountinfo.Info{FSType: "cgroup2", Root: "/", Mountpoint: "/sys/fs/cgroups", Options: "rw"}, false},
		{"something else", mountinfo.Info{FSType: "tmpfs", Root: "/", Mountpoint: "/sys/fs/cgroup", Options: "rw"}, false},
	} {
		if got := isHierarchy(&c.info); got != c.want {
			t.Errorf("%s: got %t", c.why, got)
		}
	}
}

func TestCgroupTakesAProcessInEveryHierarchy(t *testing.T) {
	c, p := cgroup(t), sleeper(t)
	must(t, c.Create()) // once more
	must(t, c.Attach(p.pid()))
	for _, root := range get[[]string](t)(Hierarchies()) {
		if pids := get[[]int](t)(readProcs(c.in(root))); !slices.Equal(pids, []int{p.pid()}) {
			t.Errorf("%s: processes %v, want %d", root, pids, p.pid())
		}
	}
	if pids := get[[]int](t)(c.Procs()); !slices.Equal(pids, []int{p.pid()}) {
		t.Errorf("v2: processes %v", pids)
	}
	if path := get[string](t)(UnifiedPath(p.pid())); path != c.Path {
		t.Errorf("it is in %s", path)
	}
	must(t, Cgroup{Path: "/"}.AttachUnified(p.pid()))
	if pids := get[[]int](t)(c.Procs()); len(pids) != 0 {
		t.Errorf("after it was moved away: %v", pids)
	}
	must(t, Cgroup{Path: "/"}.Attach(p.pid()))
}

func TestCgroupBelowANewCpusetTakesProcesses(t *testing.T) {
	c, p := cgroup(t), sleeper(t)
	deep := Cgroup{Path: c.Path + "/a/b"}
	must(t, deep.Create())
	must(t, deep.Attach(p.pid()))
	must(t, Cgroup{Path: "/"}.Attach(p.pid()))
}

func TestCgroupRefusesAProcessThatIsNone(t *testing.T) {
	c := cgroup(t)
	for _, pid := range []int{0, -1, 1 << 30} {
		if err := c.Attach(pid); !errors.Is(err, unix.ESRCH) {
			t.Errorf("process %d: %v", pid, err)
		}
	}
	if pids := get[[]int](t)(c.Procs()); len(pids) != 0 {
		t.Errorf("it took %v", pids)
	}
}

func TestCgroupIsNeverTheRootByMistake(t *testing.T) {
	for _, path := range []string{"", "/", "..", "/../..", "/x/.."} {
		c := Cgroup{Path: path}
		if err := c.Kill(); !errors.Is(err, errRootCgroup) {
			t.Errorf("kill %q: %v", path, err)
		}
		if err := c.Remove(); !errors.Is(err, errRootCgroup) {
			t.Errorf("remove %q: %v", path, err)
		}
		if err := c.SetFrozen(true); err == nil {
			t.Errorf("freeze %q: no error", path)
		}
	}
	if got := (Cgroup{Path: "/../../tmp"}).in("/sys/fs/cgroup/cpu"); got != "/sys/fs/cgroup/cpu/tmp" {
		t.Errorf("it leads to %s", got)
	}
}

func TestCgroupOfAProcessThatForksWhileItIsMovedCanBeRemoved(t *testing.T) {
	c := cgroup(t)
	for range 20 {
		p := start(t, nil, "sh", "-c", "while :; do sleep 0.001 & wait; done")
		must(t, c.Attach(p.pid()))
		must(t, c.Kill())
		must(t, p.reaped())
		must(t, c.Remove())
		must(t, c.Create())
	}
}

func (p *process) reaped() error {
	_, err := p.Process.Wait()
	return err
}

func TestCgroupIsRemovedWithThoseBelowItWhenItsKilledProcessesAreGone(t *testing.T) {
	c := cgroup(t)
	below := Cgroup{Path: c.Path + "/below"}
	must(t, below.Create())
	var pids []int
	for i := range 20 {
		p := sleeper(t)
		pids = append(pids, p.pid())
		must(t, []Cgroup{c, below}[i%2].Attach(p.pid()))
	}
	must(t, c.Kill())
	// Nobody has reaped them: the zombies must not hold it.
	must(t, c.Remove())
	for _, root := range get[[]string](t)(Hierarchies()) {
		if exists(c.in(root)) {
			t.Errorf("%s is still there", c.in(root))
		}
	}
	must(t, c.Remove()) // once more
	for _, pid := range pids {
		if state, _, err := stat(pid); err != nil || state != 'Z' {
			t.Errorf("process %d is %c: %v", pid, state, err)
		}
	}
}

func TestCgroupWithALivingProcessIsNotRemoved(t *testing.T) {
	c, p := cgroup(t), sleeper(t)
	must(t, c.Attach(p.pid()))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.remove(ctx); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v", err)
	}
	if pids := get[[]int](t)(c.Procs()); !slices.Equal(pids, []int{p.pid()}) {
		t.Errorf("its processes are %v", pids)
	}
}

func TestCgroupWithAProcessInOneHierarchyOnlyIsNotRemoved(t *testing.T) {
	list := get[[]string](t)(Hierarchies())
	c, p := cgroup(t), sleeper(t)
	must(t, c.attach(list[0], p.pid()))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := c.remove(ctx); !errors.Is(err, unix.EBUSY) {
		t.Errorf("got %v", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { _ = p.Process.Kill() })
	if err := c.Remove(); err != nil {
		t.Errorf("after its process has ended: %v", err)
	}
}

func TestCgroupThatDoesNotExistHasNothing(t *testing.T) {
	c := Cgroup{Path: "/" + groupPrefix + "none"}
	must(t, c.Kill())
	must(t, c.WaitEmpty(t.Context()))
	must(t, c.Remove())
	if pids, err := c.Procs(); err != nil || len(pids) != 0 {
		t.Errorf("processes %v: %v", pids, err)
	}
	if d, err := c.CPU(); err != nil || d != 0 {
		t.Errorf("CPU time %s: %v", d, err)
	}
	for what, err := range map[string]error{"freeze": c.Freeze(t.Context()), "attach": c.AttachUnified(os.Getpid()), "open": errOf(c.Open())} {
		if !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

func TestCgroupIsEmptyWhenItsLastProcessHasEnded(t *testing.T) {
	c, p := cgroup(t), sleeper(t)
	must(t, c.AttachUnified(p.pid()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := c.WaitEmpty(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("with a process in it: %v", err)
	}
	done := make(chan error)
	go func() { done <- c.WaitEmpty(t.Context()) }()
	must(t, c.Kill())
	must(t, <-done)
}

func TestCgroupCPUTimeIsThatOfTheProcessesInIt(t *testing.T) {
	c := cgroup(t)
	if d := get[time.Duration](t)(c.CPU()); d != 0 {
		t.Errorf("a new one has used %s", d)
	}
	p := start(t, nil, "sh", "-c", "read go; while :; do :; done")
	must(t, c.Attach(p.pid()))
	get[int](t)(p.in.Write([]byte("go\n")))
	eventually(t, "it has used 20 ms", func() bool { return get[time.Duration](t)(c.CPU()) > 20*time.Millisecond })
	must(t, c.Kill())
	must(t, c.WaitEmpty(t.Context()))
	if d := get[time.Duration](t)(c.CPU()); d <= 20*time.Millisecond {
		t.Errorf("after its process has ended: %s", d)
	}
}

// schedstat is the CPU time of one thread in ns, by another way than Cgroup.CPU's.
func schedstat(t testing.TB, pid int) uint64 {
	t.Helper()
	fields := strings.Fields(lines(filepath.Join("/proc", strconv.Itoa(pid), "schedstat"))[0])
	return get[uint64](t)(strconv.ParseUint(fields[0], 10, 64))
}
