package ptrace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	allSignals = ^uint64(0)
	noCall     = ^uint64(0) // OrigRax of a thread that is not in a system call
	// The kernel's own errors between "interrupted" and "restart", from include/linux/errno.h.
	restartFirst, restartLast = -516, -512
	restartTries              = 8
)

// Syscall has the stopped thread call the kernel and returns the result, an errno as syscall.Errno. Registers and signal mask are as before afterwards.
func (t *Tracee) Syscall(ctx context.Context, number uint64, args ...uint64) (result uint64, err error) {
	if len(args) > 6 {
		return 0, fmt.Errorf("inject call %d: %d arguments", number, len(args))
	}
	if err := t.findCall(); err != nil {
		return 0, err
	}
	err = t.excursion(ctx, func(saved Regs) error {
		r := saved
		for i, p := range []*uint64{&r.Rdi, &r.Rsi, &r.Rdx, &r.R10, &r.R8, &r.R9} {
			*p = 0
			if i < len(args) {
				*p = args[i]
			}
		}
		r.Rip, r.Rax, r.Orig_rax = t.vdso, number, noCall
		result, err = t.call(ctx, r)
		return err
	})
	if err != nil {
		return 0, err
	}
	if code := int64(result); code < 0 && code >= -4095 {
		return 0, syscall.Errno(-code)
	}
	return result, nil
}

// call runs one syscall instruction, again if it was interrupted: only a group-stop can do that here.
func (t *Tracee) call(ctx context.Context, r Regs) (uint64, error) {
	for range restartTries {
		if err := setRegs(t.Tid, r); err != nil {
			return 0, err
		}
		for range 2 { // entry and exit
			if err := t.untilCall(ctx); err != nil {
				return 0, err
			}
		}
		after, err := getRegs(t.Tid)
		if err != nil {
			return 0, err
		}
		if code := int64(after.Rax); code < restartFirst || code > restartLast {
			return after.Rax, nil
		}
	}
	return 0, errors.New("call is interrupted again and again")
}

// Run lets the stopped thread run with other registers until it calls the kernel with the number `until`, which the kernel never sees, and returns the registers
// of that moment. Registers and signal mask are as before afterwards. The code that runs must not expect signals.
func (t *Tracee) Run(ctx context.Context, r Regs, until uint64) (at Regs, err error) {
	r.Orig_rax = noCall
	err = t.excursion(ctx, func(Regs) error {
		if err := setRegs(t.Tid, r); err != nil {
			return err
		}
		for {
			if err := t.untilCall(ctx); err != nil {
				return err
			}
			if at, err = getRegs(t.Tid); err != nil {
				return err
			}
			skipped := at
			if at.Orig_rax == until {
				skipped.Orig_rax = noCall
				if err := setRegs(t.Tid, skipped); err != nil {
					return err
				}
			}
			if err := t.untilCall(ctx); err != nil {
				return err
			}
			if at.Orig_rax == until {
				return nil
			}
		}
	})
	return at, err
}

// excursion saves registers and mask, blocks all signals, runs fn, and brings the thread back to where it was. What goes wrong in between poisons the tracee.
func (t *Tracee) excursion(ctx context.Context, fn func(saved Regs) error) error {
	return t.do("excursion", func() error {
		saved, err := getRegs(t.Tid)
		if err != nil {
			return err
		}
		mask, err := getSigMask(t.Tid)
		if err != nil {
			return err
		}
		if err := setSigMask(t.Tid, allSignals); err != nil {
			return err
		}
		if err = fn(saved); err == nil {
			err = t.settle(ctx, saved, mask)
		}
		if err != nil {
			t.poison = fmt.Errorf("poisoned thread %d: %w", t.Tid, err)
		}
		return err
	})
}

// settle brings the thread from the exit of a system call back to a stop of the kind that Interrupt makes. The kernel restarts an interrupted call only on
// its way out of such a stop; from the exit of a call the thread would go on with -ERESTARTSYS as a result.
func (t *Tracee) settle(ctx context.Context, saved Regs, mask uint64) error {
	if err := setRegs(t.Tid, saved); err != nil {
		return err
	}
	if err := setSigMask(t.Tid, mask); err != nil {
		return err
	}
	if err := unix.PtraceInterrupt(t.Tid); err != nil {
		return os.NewSyscallError("ptrace interrupt", err)
	}
	if err := unix.PtraceCont(t.Tid, 0); err != nil {
		return os.NewSyscallError("ptrace cont", err)
	}
	if err := t.untilStop(ctx); err != nil {
		return err
	}
	// The way to the stop may have looked at the registers as those of a call that just returned.
	return setRegs(t.Tid, saved)
}
