package fork

import (
	"context"
	"encoding/binary"
	"fmt"
	"reflect"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

func (i *inspector) readThreads(ctx context.Context, p *Process) error {
	var first struct {
		creds    linux.Creds
		schedule string
		cpus     string
	}
	for n, tracee := range i.Threads {
		text, err := i.read("task/%d/status", tracee.Tid)
		if err != nil {
			return err
		}
		s, err := parseStatus(text)
		if err != nil {
			return err
		}
		creds, err := linux.ReadCreds(i.pid, tracee.Tid)
		if err != nil {
			return err
		}
		stat, err := i.read("task/%d/stat", tracee.Tid)
		if err != nil {
			return err
		}
		order, err := schedule(stat)
		if err != nil {
			return err
		}
		if n == 0 {
			first.creds, first.schedule, first.cpus = creds, order, s.cpus
			p.NoNewPrivs, p.Group, p.Session, i.users = creds.NoNewPrivs, s.group, s.session, creds.Uids
		}
		if !reflect.DeepEqual(creds, first.creds) {
			i.refuse(CodePrivileges, "", "thread %d has other credentials than the main thread", s.tid)
		}
		if order != first.schedule || s.cpus != first.cpus {
			i.refuse(CodeScheduling, "", "thread %d is scheduled differently from the main thread: %s, cpus %s", s.tid, order, s.cpus)
		}
		i.judgeStatus(n == 0, s)
		t, err := i.readThread(ctx, tracee, s)
		if err != nil {
			return fmt.Errorf("thread %d: %w", s.tid, err)
		}
		p.Threads = append(p.Threads, t)
	}
	return nil
}

func (i *inspector) judgeStatus(main bool, s status) {
	if s.seccomp != 0 {
		i.refuse(CodeSeccomp, "", "thread %d has a seccomp filter", s.tid)
	}
	if len(i.process.Children) > 0 {
		s.shared &^= 1 << (signalChild - 1) // its children have been stopped, and none of them has ended
	}
	if s.pending != 0 || main && s.shared != 0 {
		i.refuse(CodePending, TryAgain, "thread %d has pending signals %#x, the process %#x", s.tid, s.pending, s.shared)
	}
}

const (
	sysSigaltstack  = 131
	sysPrctl        = 157
	sysRtSigaction  = 13
	sysGetitimer    = 36
	prGetTidAddress = 40
	prGetPdeathsig  = 2

	prGetChildSubreaper = 37

	sizeofAltStack  = 24
	sizeofSigaction = 32
	sizeofItimerval = 32
	codeSegment64   = 0x33
	// tileComponents are AMX's configuration and data: the frame of a signal does not hold them unless the process asked for it.
	tileComponents = 1<<17 | 1<<18
	// usedComponents is where an XSAVE area says which of its components are not in their initial state.
	usedComponents = 512
)

func (i *inspector) readThread(ctx context.Context, tracee *ptrace.Tracee, s status) (t Thread, err error) {
	t.Tid, t.Comm = s.tid, s.name
	if t.Regs, err = tracee.Regs(); err != nil {
		return t, err
	}
	if t.XState, err = tracee.XState(); err != nil {
		return t, err
	}
	if len(t.XState) < ptrace.XSaveFixed {
		return t, fmt.Errorf("extended registers have %d bytes", len(t.XState))
	}
	if t.SigMask, err = tracee.SigMask(); err != nil {
		return t, err
	}
	if t.Rseq, err = tracee.Rseq(); err != nil {
		return t, err
	}
	if t.RobustHead, t.RobustLen, err = linux.RobustList(tracee.Tid); err != nil {
		return t, err
	}
	if t.AltStack, err = i.ask(ctx, tracee, sizeofAltStack, sysSigaltstack, 0, i.Scratch); err != nil {
		return t, err
	}
	address, err := i.ask(ctx, tracee, 8, sysPrctl, prGetTidAddress, i.Scratch)
	if err != nil {
		return t, err
	}
	t.ClearTid = binary.LittleEndian.Uint64(address)
	i.judgeRegisters(t)
	return t, i.judgeRseq(t)
}

func (i *inspector) judgeRegisters(t Thread) {
	if t.Regs.Cs != codeSegment64 || t.Regs.Gs_base != 0 {
		i.refuse(CodeRegisters, "", "thread %d: code segment %#x, gs base %#x", t.Tid, t.Regs.Cs, t.Regs.Gs_base)
	}
	if used := binary.LittleEndian.Uint64(t.XState[usedComponents:]); used&tileComponents != 0 {
		i.refuse(CodeRegisters, "", "thread %d uses AMX tiles", t.Tid)
	}
}

// judgeRseq refuses a thread in the middle of a restartable sequence: only the kernel can send it to its abort handler.
func (i *inspector) judgeRseq(t Thread) error {
	if t.Rseq.Pointer == 0 {
		return nil
	}
	var section [8]byte
	if _, err := i.memory.ReadAt(section[:], int64(t.Rseq.Pointer+8)); err != nil {
		return err
	}
	if binary.LittleEndian.Uint64(section[:]) != 0 {
		i.refuse(CodeRegisters, TryAgain, "thread %d is in a restartable sequence", t.Tid)
	}
	return nil
}

// ask has a thread write `size` bytes about itself to the scratch page.
func (i *inspector) ask(ctx context.Context, tracee *ptrace.Tracee, size int, number uint64, args ...uint64) ([]byte, error) {
	if _, err := tracee.Syscall(ctx, number, args...); err != nil {
		return nil, fmt.Errorf("inject call %d: %w", number, err)
	}
	answer := make([]byte, size)
	_, err := i.memory.ReadAt(answer, int64(i.Scratch))
	return answer, err
}
