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

// Template is a stopped process, or an init with its children, each with its zygote.
type Template struct {
	// zygote of the first process.
	*zygote
	// children have a zygote each.
	children []*zygote
	clocks   clocks
	// ipc is what its IPC namespace has.
	ipc linux.IPC
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

// Source is a process that is to be a template's. Origin is nil for one that is in the pid namespace of its own that it was born in, and has the privileges that its
// clones are to have.
type Source struct {
	PID    int
	Origin *Origin
}

// NewTemplate makes a template of a process, or of an init and its children, which follow it, and leaves them stopped by SIGSTOP. What is refused goes on as it was. After
// any other error it is not fit to run: the caller ends it. A process with an origin must not run: after an error, and when the caller ends meanwhile, all are killed.
func NewTemplate(ctx context.Context, sources ...Source) (*Template, error) {
	t, err := newTemplate(ctx, sources)
	if err != nil {
		return nil, fmt.Errorf("make template of process %d: %w", sources[0].PID, err)
	}
	return t, nil
}

func newTemplate(ctx context.Context, sources []Source) (*Template, error) {
	tracer := ptrace.NewTracer()
	defer tracer.Close()
	var seized [][]*ptrace.Tracee
	// Those who were killed before they are let go do not run.
	fail := func(errs ...error) error {
		for _, s := range sources {
			if s.Origin != nil {
				errs = append(errs, os.NewSyscallError("kill", syscall.Kill(s.PID, syscall.SIGKILL)))
			}
		}
		return errors.Join(append(errs, letGo(seized))...)
	}
	for _, s := range sources {
		threads, err := tracer.SeizeAll(ctx, s.PID, ptrace.Options{ExitKill: s.Origin != nil})
		if err != nil {
			return nil, fail(err)
		}
		seized = append(seized, threads)
	}
	t, err := prepare(ctx, sources, seized)
	if err != nil {
		return nil, fail(err)
	}
	for n, threads := range seized {
		if err := ptrace.DetachAll(threads); err != nil {
			seized = seized[n+1:]
			return nil, fail(err, t.Close())
		}
	}
	return t, nil
}

// letGo detaches from threads some of which may have been killed.
func letGo(seized [][]*ptrace.Tracee) (all error) {
	for _, threads := range seized {
		if err := ptrace.DetachAll(threads); !errors.Is(err, syscall.ESRCH) {
			all = errors.Join(all, err)
		}
	}
	return all
}

const (
	mapPrivateAnonymous = 0x22
	noFile              = ^uint64(0)
	packetSocket        = 5 | openCloexec
	pageSize            = 4096
)

// prepare reads the processes and has each fork its zygote.
func prepare(ctx context.Context, sources []Source, seized [][]*ptrace.Tracee) (_ *Template, err error) {
	var subjects []Subject
	for n, threads := range seized {
		base, err := threads[0].Syscall(ctx, sysMmap, 0, regionSize, protRead|protWrite, mapPrivateAnonymous, noFile, 0)
		if err != nil {
			return nil, fmt.Errorf("map region: %w", err)
		}
		subjects = append(subjects, Subject{threads, base + codeSize, [2]uint64{base, base + regionSize}, sources[n].Origin})
	}
	processes, refusals, err := Inspect(ctx, subjects...)
	if err != nil {
		return nil, err
	}
	if len(refusals) > 0 {
		err = &RefusedError{refusals}
		for _, s := range subjects {
			_, unmapped := s.Threads[0].Syscall(ctx, sysMunmap, s.Own[0], regionSize)
			err = errors.Join(err, unmapped)
		}
		return nil, err
	}
	for n, s := range subjects {
		if err := silence(ctx, s.Threads[0], processes[n]); err != nil {
			return nil, err
		}
	}
	t := &Template{ipc: processes[0].IPC}
	if t.clocks, err = readClocks(sources[0].PID); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if t.filler, err = os.Open(os.DevNull); err != nil {
		return nil, err
	}
	if t.zygote, err = newZygote(ctx, seized[0][0], subjects[0].Own[0], processes[0], sources[0].Origin); err != nil {
		return nil, err
	}
	for n, s := range subjects[1:] {
		z, err := newZygote(ctx, s.Threads[0], s.Own[0], processes[n+1], sources[n+1].Origin)
		if err != nil {
			return nil, err
		}
		t.children = append(t.children, z)
	}
	return t, nil
}

// zygotes are all, the first process's first.
func (t *Template) zygotes() []*zygote { return append([]*zygote{t.zygote}, t.children...) }

// Zygotes are their pids. They are born in the template's cgroup; in another they go on when the template is frozen.
func (t *Template) Zygotes() (pids []int) {
	for _, z := range t.zygotes() {
		pids = append(pids, z.zygotePID)
	}
	return pids
}

// Program is what clones of the first process do.
func (t *Template) Program() *Program { return t.program }

// Close ends the zygotes. Clones that were released live on as long as the pid namespace that they were made in: if the template is its first process, as
// long as the template.
func (t *Template) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil
	}
	t.closed = true
	var all error
	for _, z := range t.zygotes() {
		if z != nil {
			all = errors.Join(all, z.close())
		}
	}
	if t.filler != nil {
		all = errors.Join(all, t.filler.Close())
	}
	return all
}
