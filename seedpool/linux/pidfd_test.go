package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// grandchild is a process whose parent is not this one but a shell, which reaps it when it has ended and been told to.
func grandchild(t *testing.T, script string) (pid *Pidfd, parent *process) {
	t.Helper()
	parent = start(t, nil, "sh", "-c", `(`+script+`) & echo $!; read reap; wait; echo reaped; read end`)
	number := get[int](t)(strconv.Atoi(parent.line(t)))
	pid = get[*Pidfd](t)(OpenPidfd(number))
	t.Cleanup(func() {
		if err := pid.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
		must(t, pid.Close())
	})
	return pid, parent
}

func (p *process) tell(t testing.TB, line string) {
	t.Helper()
	get[int](t)(fmt.Fprintln(p.in, line))
}

func TestPidfdTellsTheExitStatusOfAProcessThatIsNotOurChild(t *testing.T) {
	for _, c := range []struct {
		script string
		check  func(syscall.WaitStatus) bool
	}{
		{"exit 0", func(s syscall.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 0 }},
		{"exit 7", func(s syscall.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 7 }},
		{"kill -TERM $(exec sh -c 'echo $PPID')", func(s syscall.WaitStatus) bool { return s.Signaled() && s.Signal() == syscall.SIGTERM }},
		{"ulimit -c 0; kill -SEGV $(exec sh -c 'echo $PPID')", func(s syscall.WaitStatus) bool { return s.Signaled() && s.Signal() == syscall.SIGSEGV }},
	} {
		p, parent := grandchild(t, "sleep 0.05; "+c.script)
		if _, ok, err := p.ExitStatus(); ok || err != nil {
			t.Errorf("%s: while it runs: %t %v", c.script, ok, err)
		}
		must(t, p.Wait(t.Context()))
		parent.tell(t, "reap")
		if said := parent.line(t); said != "reaped" {
			t.Fatalf("parent says %q", said)
		}
		status, ok, err := p.ExitStatus()
		if !ok || err != nil || !c.check(status) {
			t.Errorf("%s: got %x %t %v", c.script, status, ok, err)
		}
		if err := p.Signal(syscall.SIGTERM); !errors.Is(err, os.ErrProcessDone) {
			t.Errorf("%s: signal after its end: %v", c.script, err)
		}
		must(t, p.Wait(t.Context())) // once more
	}
}

func TestPidfdHasNoExitStatusBeforeTheParentHasReaped(t *testing.T) {
	c := exec.Command("true")
	must(t, c.Start())
	p := get[*Pidfd](t)(OpenPidfd(c.Process.Pid))
	defer p.Close()
	must(t, p.Wait(t.Context()))
	if _, ok, err := p.ExitStatus(); ok || err != nil {
		t.Errorf("of a zombie: %t %v", ok, err)
	}
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("signal to a zombie: %v", err)
	}
	must(t, c.Wait())
	if status, ok, err := p.ExitStatus(); !ok || err != nil || status.ExitStatus() != 0 {
		t.Errorf("after it was reaped: %x %t %v", status, ok, err)
	}
}

func TestPidfdWaitEndsWithItsOwnContextOnly(t *testing.T) {
	s := sleeper(t)
	p := get[*Pidfd](t)(OpenPidfd(s.pid()))
	defer p.Close()
	_ = p.File().Fd() // makes it blocking
	var waiters sync.WaitGroup
	results := make([]error, 8)
	for i := range results {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		if i%2 == 0 {
			time.AfterFunc(time.Duration(10+i)*time.Millisecond, cancel)
		}
		waiters.Go(func() { results[i] = p.Wait(ctx) })
	}
	time.AfterFunc(50*time.Millisecond, func() { _ = p.Signal(syscall.SIGKILL) })
	waiters.Wait()
	for i, err := range results {
		if cancelled := i%2 == 0; cancelled != errors.Is(err, context.Canceled) || !cancelled && err != nil {
			t.Errorf("waiter %d: %v", i, err)
		}
	}
	late, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Wait(late); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("with an ended context: %v", err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Errorf("after cancelled ones: %v", err)
	}
}

func TestPidfdOfNoProcessIsAnError(t *testing.T) {
	if _, err := OpenPidfd(1 << 30); err == nil {
		t.Error("no error")
	}
	gone := exec.Command("true")
	must(t, gone.Run())
	if _, err := OpenPidfd(gone.Process.Pid); !errors.Is(err, unix.ESRCH) {
		t.Errorf("got %v", err)
	}
}

func TestPidfdThatIsClosedIsAnErrorAndNotAnotherProcess(t *testing.T) {
	p := get[*Pidfd](t)(OpenPidfd(os.Getpid()))
	must(t, p.Close())
	_, _, status := p.ExitStatus()
	for what, err := range map[string]error{"wait": p.Wait(t.Context()), "signal": p.Signal(0), "status": status} {
		if err == nil {
			t.Errorf("%s: no error", what)
		}
	}
}

func TestAProcessIsNamedByItsPidAndStartTime(t *testing.T) {
	s := sleeper(t)
	began := get[uint64](t)(StartTime(s.pid()))
	if !Alive(s.pid(), began) {
		t.Error("a living process is called dead")
	}
	if Alive(s.pid(), began+1) {
		t.Error("another process of the same pid is called alive")
	}
	must(t, s.Process.Kill())
	eventually(t, "it is a zombie", func() bool { return !Alive(s.pid(), began) })
	if _, err := StartTime(s.pid()); err != nil {
		t.Errorf("start time of a zombie: %v", err)
	}
	_, _ = s.Process.Wait()
	if Alive(s.pid(), began) {
		t.Error("a reaped one is called alive")
	}
	if _, err := StartTime(s.pid()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("start time of a reaped one: %v", err)
	}
}

func TestStartTimeIsThatOfAProcessWithAnyName(t *testing.T) {
	program := filepath.Join(t.TempDir(), ") Z 1 (x 2)")
	sleep := get[string](t)(exec.LookPath("sleep"))
	must(t, os.WriteFile(program, get[[]byte](t)(os.ReadFile(sleep)), 0o755))
	p := start(t, nil, program, "1000")
	began := get[uint64](t)(StartTime(p.pid()))
	other := sleeper(t)
	if later := get[uint64](t)(StartTime(other.pid())); began == 0 || later < began || later > began+1000 {
		t.Errorf("it started at %d, one that came after it at %d", began, later)
	}
	if !Alive(p.pid(), began) {
		t.Error("it is called dead")
	}
}

func FuzzParseStat(f *testing.F) {
	for _, seed := range []string{"", ")", "1 (a) S", "1 (a) b) S 1 1 1 0 -1 4194560 1 1 1 1 1 1 1 1 20 0 1 0 77 1", "1 (sh) R" + fmt.Sprint(make([]int, 50))} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, start, err := parseStat(data); err != nil && start != 0 && !errors.Is(err, strconv.ErrRange) {
			t.Errorf("start time %d with %v", start, err)
		}
	})
}
