package fork

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// Template is a stopped process with its zygote.
type Template struct {
	program *Program
	control *linux.Control
	// zygote is the host's view of it.
	zygote         *linux.Pidfd
	zygotePID, pid int
	// filler takes the place of descriptors that a request does not have.
	filler *os.File

	// mu: one clone at a time. It is held while a clone is made.
	mu     sync.Mutex
	number uint64
	closed bool
}

// ErrRefused means that a process cannot be cloned. The error is a *RefusedError.
var ErrRefused = errors.New("process cannot be cloned")

// RefusedError lists why, and what can be done about it.
type RefusedError struct{ Refusals []Refusal }

func (e *RefusedError) Error() string {
	var all []string
	for _, r := range e.Refusals {
		what := string(r.Code) + ": " + r.What
		if r.Fix != "" {
			what += " (" + r.Fix + ")"
		}
		all = append(all, what)
	}
	return ErrRefused.Error() + ": " + strings.Join(all, "; ")
}

// Unwrap makes it an ErrRefused.
func (e *RefusedError) Unwrap() error { return ErrRefused }

// NewTemplate makes a template of a process and leaves it stopped by SIGSTOP. A process that is refused goes on as it was. After any other error it is not
// fit to run: the caller ends it. origin is nil for a process that is the first of its pid namespace and has the privileges that its clones are to have; any
// other process must not run: after an error, and when the caller ends meanwhile, it is killed.
func NewTemplate(ctx context.Context, pid int, origin *Origin) (*Template, error) {
	t, err := newTemplate(ctx, pid, origin)
	if err != nil {
		return nil, fmt.Errorf("make template of process %d: %w", pid, err)
	}
	return t, nil
}

func newTemplate(ctx context.Context, pid int, origin *Origin) (*Template, error) {
	tracer := ptrace.NewTracer()
	defer tracer.Close()
	kill := func() error {
		if origin == nil {
			return nil
		}
		return os.NewSyscallError("kill", syscall.Kill(pid, syscall.SIGKILL))
	}
	threads, err := tracer.SeizeAll(ctx, pid, ptrace.Options{ExitKill: origin != nil})
	if err != nil {
		return nil, errors.Join(err, kill())
	}
	t, err := prepare(ctx, pid, threads, origin)
	if err != nil {
		// Before it is let go.
		return nil, errors.Join(err, kill(), letGo(threads))
	}
	if err := ptrace.DetachAll(threads); err != nil {
		return nil, errors.Join(err, kill(), t.Close())
	}
	return t, nil
}

// letGo detaches from threads some of which may have been killed.
func letGo(threads []*ptrace.Tracee) error {
	if err := ptrace.DetachAll(threads); !errors.Is(err, syscall.ESRCH) {
		return err
	}
	return nil
}

const (
	mapPrivateAnonymous = 0x22
	noFile              = ^uint64(0)
	packetSocket        = 5 | openCloexec
	pageSize            = 4096
)

func prepare(ctx context.Context, pid int, threads []*ptrace.Tracee, origin *Origin) (*Template, error) {
	main := threads[0]
	base, err := main.Syscall(ctx, sysMmap, 0, regionSize, protRead|protWrite, mapPrivateAnonymous, noFile, 0)
	if err != nil {
		return nil, fmt.Errorf("map region: %w", err)
	}
	process, refusals, err := Inspect(ctx, threads, base+codeSize, [2]uint64{base, base + regionSize})
	if err == nil {
		err = origin.renumber(process)
	}
	if err != nil {
		return nil, err
	}
	if first := process.Threads[0].Tid; first != 1 {
		refusals = append(refusals, Refusal{
			CodeNotInit, fmt.Sprintf("the process is number %d in its pid namespace, a clone would be number 1", first), "run it as the first process of a pid namespace",
		})
	}
	refusals = append(refusals, origin.judge(process.NoNewPrivs)...)
	if len(refusals) > 0 {
		_, err := main.Syscall(ctx, sysMunmap, base, regionSize)
		return nil, errors.Join(&RefusedError{refusals}, err)
	}
	return fork(ctx, pid, main, base, process, origin)
}

// fork writes the program into the template, starts the zygote and connects to it.
func fork(ctx context.Context, pid int, main *ptrace.Tracee, base uint64, process *Process, origin *Origin) (_ *Template, err error) {
	memory := ptrace.NewMemory(pid)
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
	t := &Template{program: program, pid: pid}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.filler, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if err := t.connect(pid); err != nil {
		return nil, err
	}
	return t, t.start(ctx, main)
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

func (t *Template) connect(pid int) error {
	process, err := linux.OpenPidfd(pid)
	if err != nil {
		return err
	}
	defer process.Close()
	end, err := process.Descriptor(t.program.Peer)
	if err != nil {
		return err
	}
	t.control, err = linux.NewControl(end)
	return err
}

// start forks the zygote, learns its pid from its hello, and leaves the template without our descriptors and stopped.
func (t *Template) start(ctx context.Context, main *ptrace.Tracee) error {
	r, err := main.Regs()
	if err != nil {
		return err
	}
	r.Rip, r.Rbx, r.R15 = t.program.Base, t.program.Fork, t.program.Header
	if _, err := main.Run(ctx, r, markCall); err != nil {
		return fmt.Errorf("fork zygote: %w", err)
	}
	m, err := t.receive(ctx)
	if err != nil {
		return fmt.Errorf("hear from zygote: %w", err)
	}
	if m.kind != kindHello {
		return fmt.Errorf("start zygote: %w", t.failure(t.program.program, m))
	}
	t.zygotePID = m.pid
	if t.zygote, err = linux.OpenPidfd(m.pid); err != nil {
		return err
	}
	for _, fd := range []int{t.program.Control, t.program.Peer} {
		if _, err := main.Syscall(ctx, sysClose, uint64(fd)); err != nil {
			return fmt.Errorf("close control socket: %w", err)
		}
	}
	return os.NewSyscallError("kill", syscall.Kill(t.pid, syscall.SIGSTOP))
}

// Zygote is the zygote's pid. It is born in the template's cgroup; in another it goes on when the template is frozen.
func (t *Template) Zygote() int { return t.zygotePID }

// Program is what the template's clones do.
func (t *Template) Program() *Program { return t.program }

// Close ends the zygote. Clones that were released live on as long as the pid namespace that they were made in: if the template is its first process, as
// long as the template.
func (t *Template) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	var all error
	if t.control != nil {
		all = t.control.Close()
	}
	if t.zygote != nil {
		if err := t.zygote.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			all = errors.Join(all, err)
		}
		all = errors.Join(all, t.zygote.Close())
	}
	if t.filler != nil {
		all = errors.Join(all, t.filler.Close())
	}
	return all
}
