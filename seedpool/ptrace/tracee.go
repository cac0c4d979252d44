package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// Tracee is one thread of another process.
type Tracee struct {
	// Pid is the process, Tid the thread, both as the tracer's pid namespace counts.
	Pid, Tid int

	tracer *Tracer
	poison error
	// vdso is the address of a syscall instruction in the process, 0 until it was looked for.
	vdso uint64
}

// Options of a seizure.
type Options struct {
	// ExitKill has the kernel kill the process when the tracer's thread ends.
	ExitKill bool
}

// Seize attaches to a running thread without stopping it.
func (t *Tracer) Seize(pid, tid int, o Options) (*Tracee, error) {
	options := unix.PTRACE_O_TRACESYSGOOD
	if o.ExitKill {
		options |= unix.PTRACE_O_EXITKILL
	}
	err := t.do(func() error { return seize(tid, options) })
	if err != nil {
		return nil, fmt.Errorf("seize thread %d: %w", tid, err)
	}
	return &Tracee{Pid: pid, Tid: tid, tracer: t}, nil
}

// SeizeAll attaches to every thread of a process and stops it; the main thread comes first, the others by thread id. On an error whatever was
// attached is let go again.
func (t *Tracer) SeizeAll(ctx context.Context, pid int, o Options) (list []*Tracee, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, DetachAll(list))
			list = nil
		}
	}()
	// A thread that is not stopped yet may start others: list again until nothing is new.
	for known := map[int]bool{}; ; {
		tids, err := threads(pid)
		if err != nil {
			return list, err
		}
		news := false
		for _, tid := range tids {
			if known[tid] {
				continue
			}
			known[tid], news = true, true
			tracee, err := t.Seize(pid, tid, o)
			if errors.Is(err, unix.ESRCH) && tid != pid {
				continue // ended since it was listed
			}
			if err != nil {
				return list, err
			}
			list = append(list, tracee)
			if err := tracee.Interrupt(ctx); err != nil {
				return list, err
			}
		}
		if !news {
			break
		}
	}
	slices.SortFunc(list, func(a, b *Tracee) int { return order(a) - order(b) })
	return list, nil
}

func order(t *Tracee) int {
	if t.Tid == t.Pid {
		return 0
	}
	return t.Tid
}

// DetachAll lets every thread of the list go on; all are tried.
func DetachAll(list []*Tracee) error {
	var all error
	for _, tracee := range list {
		all = errors.Join(all, tracee.Detach())
	}
	return all
}

func threads(pid int) ([]int, error) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	tids := make([]int, 0, len(entries))
	for _, entry := range entries {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, err
		}
		tids = append(tids, tid)
	}
	return tids, nil
}

// do runs fn on the tracer's thread unless the tracee is poisoned.
func (t *Tracee) do(what string, fn func() error) error {
	if t.poison != nil {
		return t.poison
	}
	if err := t.tracer.do(fn); err != nil {
		return fmt.Errorf("%s of thread %d: %w", what, t.Tid, err)
	}
	return nil
}

// Interrupt stops the thread. A signal that arrives at the same moment is delivered first.
func (t *Tracee) Interrupt(ctx context.Context) error {
	return t.do("interrupt", func() error {
		if err := unix.PtraceInterrupt(t.Tid); err != nil {
			return os.NewSyscallError("ptrace interrupt", err)
		}
		return t.untilStop(ctx)
	})
}

// Detach lets the thread go on. It is the last call.
func (t *Tracee) Detach() error {
	err := t.tracer.do(func() error { return os.NewSyscallError("ptrace detach", unix.PtraceDetach(t.Tid)) })
	if err != nil {
		return fmt.Errorf("detach thread %d: %w", t.Tid, err)
	}
	return nil
}

// Regs reads the general registers. In a stopped system call OrigRax is its number and Rax what it would return, -512…-516 if the kernel is to restart it.
func (t *Tracee) Regs() (r Regs, err error) {
	err = t.do("read registers", func() error { r, err = getRegs(t.Tid); return err })
	return r, err
}

// SetRegs writes the general registers.
func (t *Tracee) SetRegs(r Regs) error {
	return t.do("write registers", func() error { return setRegs(t.Tid, r) })
}

// XState reads the extended registers (FPU, SSE, AVX, …) in the standard XSAVE layout.
func (t *Tracee) XState() (state []byte, err error) {
	err = t.do("read extended registers", func() error { state, err = getXState(t.Tid); return err })
	return state, err
}

// SetXState writes the extended registers, as XState read them.
func (t *Tracee) SetXState(state []byte) error {
	return t.do("write extended registers", func() error { return setXState(t.Tid, state) })
}

// SigMask reads the blocked signals: bit n-1 is signal n. In a call like ppoll, which blocks others for its duration, it is the mask outside the call.
func (t *Tracee) SigMask() (mask uint64, err error) {
	err = t.do("read signal mask", func() error { mask, err = getSigMask(t.Tid); return err })
	return mask, err
}

// SetSigMask blocks signals.
func (t *Tracee) SetSigMask(mask uint64) error {
	return t.do("write signal mask", func() error { return setSigMask(t.Tid, mask) })
}

// Rseq reads the thread's restartable-sequence registration; Pointer is 0 if it has none.
func (t *Tracee) Rseq() (r RseqConfig, err error) {
	err = t.do("read rseq registration", func() error { r, err = getRseq(t.Tid); return err })
	return r, err
}
