package ptrace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrEnded means that the thread has ended while it was traced.
var ErrEnded = errors.New("thread has ended")

// stop is why a thread stopped.
type stop struct {
	signal syscall.Signal
	// event: PTRACE_INTERRUPT, or group-stop. call: entry to or exit of a system call. Neither: signal is about to be delivered.
	event, call bool
}

func (s stop) String() string {
	switch {
	case s.event:
		return "event stop"
	case s.call:
		return "system call stop"
	}
	return "signal " + s.signal.String()
}

const (
	eagerTries = 300
	lazyPause  = 200 * time.Microsecond
)

// wait returns at the thread's next stop. A stop most often comes within microseconds, so it is looked for eagerly at first; later every lazyPause,
// because nothing but wait4 tells of a stop, and a wait4 that blocks cannot be called off by a context.
func (t *Tracee) wait(ctx context.Context) (stop, error) {
	var pause *time.Ticker
	for try := 0; ; try++ {
		var status unix.WaitStatus
		tid, err := unix.Wait4(t.Tid, &status, unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return stop{}, os.NewSyscallError("wait4", err)
		case tid == t.Tid:
			return decode(status)
		case try < eagerTries:
			runtime.Gosched()
			continue
		case pause == nil:
			pause = time.NewTicker(lazyPause)
			defer pause.Stop()
		}
		select {
		case <-pause.C:
			if zombie(t.Pid, t.Tid) {
				return stop{}, ErrEnded
			}
		case <-ctx.Done():
			return stop{}, fmt.Errorf("wait for stop: %w", ctx.Err())
		}
	}
}

// zombie says whether a thread has ended. The end of a main thread is not reported by wait4 before all other traced threads have been waited for.
func zombie(pid, tid int) bool {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
	at := bytes.LastIndexByte(stat, ')')
	return errors.Is(err, os.ErrNotExist) || at >= 0 && len(stat) > at+2 && (stat[at+2] == 'Z' || stat[at+2] == 'X')
}

func decode(status unix.WaitStatus) (stop, error) {
	if !status.Stopped() {
		return stop{}, fmt.Errorf("%w: status %#x", ErrEnded, uint32(status))
	}
	signal := status.StopSignal()
	switch event := uint32(status) >> 16; {
	case event == unix.PTRACE_EVENT_STOP:
		return stop{signal: signal, event: true}, nil
	case event != 0:
		return stop{}, fmt.Errorf("unknown ptrace event %d", event)
	case signal == unix.SIGTRAP|0x80:
		return stop{signal: signal, call: true}, nil
	}
	return stop{signal: signal}, nil
}

// untilStop waits for an event stop, and lets signals that come before it have their effect.
func (t *Tracee) untilStop(ctx context.Context) error {
	for {
		s, err := t.wait(ctx)
		if err != nil {
			return err
		}
		if s.event {
			return nil
		}
		signal := 0
		if !s.call {
			signal = int(s.signal)
		}
		if err := unix.PtraceCont(t.Tid, signal); err != nil {
			return os.NewSyscallError("ptrace cont", err)
		}
	}
}

// untilCall lets the thread run to its next entry to or exit of a system call. Group-stops on the way are passed over. Any other signal is a surprise:
// all that can be blocked are.
func (t *Tracee) untilCall(ctx context.Context) error {
	for signal := 0; ; {
		if err := unix.PtraceSyscall(t.Tid, signal); err != nil {
			return os.NewSyscallError("ptrace syscall", err)
		}
		s, err := t.wait(ctx)
		switch {
		case err != nil:
			return err
		case s.call:
			return nil
		case s.event:
			signal = 0
		case s.signal == unix.SIGSTOP:
			signal = int(s.signal)
		default:
			return fmt.Errorf("unexpected stop: %s", s)
		}
	}
}
