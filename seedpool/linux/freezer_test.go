package linux

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"
)

func TestFreezerStopsABusyProcessAndLetsItGoOn(t *testing.T) {
	c := cgroup(t)
	p := start(t, nil, "sh", "-c", "while :; do :; done")
	must(t, c.Attach(p.pid()))
	if get[bool](t)(c.Frozen()) {
		t.Error("a running one is called frozen")
	}
	must(t, c.Freeze(t.Context()))
	if !get[bool](t)(c.Frozen()) {
		t.Error("a frozen one is called running")
	}
	ran := stopped(t, p.pid())
	used := get[time.Duration](t)(c.CPU())
	time.Sleep(200 * time.Millisecond)
	if now := schedstat(t, p.pid()); now != ran {
		t.Errorf("it ran for %d ns while frozen", now-ran)
	}
	if now := get[time.Duration](t)(c.CPU()); now != used {
		t.Errorf("it used %s of CPU time while frozen", now-used)
	}
	must(t, c.Thaw())
	eventually(t, "it runs again", func() bool { return schedstat(t, p.pid()) > ran })
	if get[bool](t)(c.Frozen()) {
		t.Error("after thaw it is called frozen")
	}
}

// stopped is the CPU time that a frozen process has used. The kernel calls it frozen when it is about to leave its CPU, some microseconds before it has.
func stopped(t testing.TB, pid int) uint64 {
	t.Helper()
	time.Sleep(10 * time.Millisecond)
	return schedstat(t, pid)
}

func TestFreezerLetsAFrozenProcessBeKilled(t *testing.T) {
	c, p := cgroup(t), sleeper(t)
	must(t, c.Attach(p.pid()))
	must(t, c.Freeze(t.Context()))
	must(t, c.Kill())
	must(t, c.WaitEmpty(t.Context()))
	state := get[*os.ProcessState](t)(p.Process.Wait())
	if status := state.Sys().(syscall.WaitStatus); status.Signal() != syscall.SIGKILL {
		t.Errorf("it ended with %v", state)
	}
}

func TestFreezerThatIsSetBeforeHoldsWhoeverEnters(t *testing.T) {
	c := cgroup(t)
	must(t, c.Freeze(t.Context()))
	p := start(t, nil, "sh", "-c", "while :; do :; done")
	must(t, c.Attach(p.pid()))
	eventually(t, "it is frozen", func() bool { return get[bool](t)(c.Frozen()) })
	ran := stopped(t, p.pid())
	time.Sleep(50 * time.Millisecond)
	if now := schedstat(t, p.pid()); now != ran {
		t.Errorf("it ran for %d ns", now-ran)
	}
}

func TestFreezerHoldsAProcessThatIsBornInIt(t *testing.T) {
	c := cgroup(t)
	must(t, c.SetFrozen(true))
	dir := get[*os.File](t)(c.Open())
	defer dir.Close()
	said, says, err := os.Pipe()
	must(t, err)
	defer said.Close()
	// Start returns when the child has called exec, and it does not before it is thawed.
	child := exec.Command("sh", "-c", "echo alive")
	child.Stdout = says
	child.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	ended := make(chan error, 1)
	go func() { ended <- child.Run() }()
	eventually(t, "it is in the cgroup", func() bool { return len(get[[]int](t)(c.Procs())) == 1 })
	select {
	case err := <-ended:
		t.Fatalf("it ran while frozen: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	must(t, c.SetFrozen(false))
	must(t, <-ended)
	must(t, says.Close())
}

func TestFreezerGivesUpWithItsContext(t *testing.T) {
	c := cgroup(t)
	below := Cgroup{Path: c.Path + "/below"}
	must(t, below.Create())
	// A vfork parent whose child is outside cannot be frozen until the child lets it go; simpler is a wait for what never comes.
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	began := time.Now()
	if err := below.waitEvent(ctx, "frozen", "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if took := time.Since(began); took < 30*time.Millisecond || took > 5*time.Second {
		t.Errorf("it took %s", took)
	}
	gone, stop := context.WithCancel(t.Context())
	stop()
	if err := below.waitEvent(gone, "frozen", "1"); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if err := below.waitEvent(t.Context(), "no such line", "1"); err == nil {
		t.Error("a line that is not there: no error")
	}
}

func TestFreezerFreezesWithinATickAlsoRightAfterAnotherChange(t *testing.T) {
	c, p := cgroup(t), sleeper(t)
	must(t, c.Attach(p.pid()))
	fastest := time.Hour
	for range 20 {
		began := time.Now()
		must(t, c.Freeze(t.Context()))
		fastest = min(fastest, time.Since(began))
		must(t, c.Thaw())
		eventually(t, "it runs", func() bool { return !get[bool](t)(c.Frozen()) })
	}
	if fastest > 4*time.Millisecond {
		t.Errorf("the fastest of 20 took %s", fastest)
	}
}
