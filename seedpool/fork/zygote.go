package fork

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// zygote is a single-threaded copy of one process of a template, which makes the clones of that process.
type zygote struct {
	program *Program
	control *linux.Control
	process *linux.Pidfd
	// offsets are those of the clocks of its children to be; nil: the kernel has no time namespaces.
	offsets *os.File
	// zygotePID is its number, pid that of the template's process; both as the host counts.
	zygotePID, pid int
}

// newZygote writes the program into a process of a template, starts the zygote and connects to it.
func newZygote(ctx context.Context, main *ptrace.Tracee, base uint64, process *Process, origin *Origin) (_ *zygote, err error) {
	memory := ptrace.NewMemory(main.Pid)
	if _, err := main.Syscall(ctx, sysSocketpair, afUnix, packetSocket, 0, base+codeSize); err != nil {
		return nil, fmt.Errorf("make socket pair: %w", err)
	}
	var pair [8]byte
	if _, err := memory.ReadAt(pair[:], int64(base+codeSize)); err != nil {
		return nil, err
	}
	layout := Layout{Base: base, Control: int(pair[0]) | int(pair[1])<<8, Peer: int(pair[4]) | int(pair[5])<<8, XState: signalFrame(process.Threads[0])}
	program, err := Plan(process, layout, origin)
	if err != nil {
		return nil, fmt.Errorf("plan clones: %w", err)
	}
	if err := load(ctx, main, memory, program); err != nil {
		return nil, err
	}
	z := &zygote{program: program, pid: main.Pid}
	defer func() {
		if err != nil {
			err = errors.Join(err, z.close())
		}
	}()
	if err := z.connect(); err != nil {
		return nil, err
	}
	return z, z.start(ctx, main)
}

// load writes stub and program, and lets the template's memory be forked.
func load(ctx context.Context, main *ptrace.Tracee, memory ptrace.Memory, p *Program) error {
	if _, err := memory.WriteAt(stub, int64(p.Base)); err != nil {
		return fmt.Errorf("write stub: %w", err)
	}
	if _, err := main.Syscall(ctx, sysMprotect, p.Base, codeSize, protRead|protExec); err != nil {
		return fmt.Errorf("protect stub: %w", err)
	}
	if _, err := memory.WriteAt(p.Data, int64(p.Base+codeSize)); err != nil {
		return fmt.Errorf("write program: %w", err)
	}
	for _, v := range p.Undo {
		if _, err := main.Syscall(ctx, sysMadvise, v.Start, v.End-v.Start, adviceFork); err != nil {
			return fmt.Errorf("let %x-%x be forked: %w", v.Start, v.End, err)
		}
	}
	return nil
}

func (z *zygote) connect() error {
	process, err := linux.OpenPidfd(z.pid)
	if err != nil {
		return err
	}
	defer process.Close()
	end, err := process.Descriptor(z.program.Peer)
	if err != nil {
		return err
	}
	z.control, err = linux.NewControl(end)
	return err
}

// start forks the zygote, learns its pid from its hello, and leaves the template without our descriptors and stopped.
func (z *zygote) start(ctx context.Context, main *ptrace.Tracee) error {
	r, err := main.Regs()
	if err != nil {
		return err
	}
	r.Rip, r.Rbx, r.R15 = z.program.Base, z.program.Fork, z.program.Header
	if _, err := main.Run(ctx, r, markCall); err != nil {
		return fmt.Errorf("fork zygote: %w", err)
	}
	m, err := z.receive(ctx)
	if err != nil {
		return fmt.Errorf("hear from zygote: %w", err)
	}
	if m.kind != kindHello {
		return fmt.Errorf("start zygote: %w", z.failure(z.program.program, m))
	}
	z.zygotePID = m.pid
	if z.process, err = linux.OpenPidfd(m.pid); err != nil {
		return err
	}
	z.offsets, err = os.OpenFile(fmt.Sprintf("/proc/%d/timens_offsets", m.pid), os.O_WRONLY, 0)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, fd := range []int{z.program.Control, z.program.Peer} {
		if _, err := main.Syscall(ctx, sysClose, uint64(fd)); err != nil {
			return fmt.Errorf("close control socket: %w", err)
		}
	}
	return os.NewSyscallError("kill", syscall.Kill(z.pid, syscall.SIGSTOP))
}

// close ends the zygote.
func (z *zygote) close() error {
	var all error
	if z.control != nil {
		all = z.control.Close()
	}
	if z.offsets != nil {
		all = errors.Join(all, z.offsets.Close())
	}
	if z.process != nil {
		if err := z.process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			all = errors.Join(all, err)
		}
		all = errors.Join(all, z.process.Close())
	}
	return all
}
