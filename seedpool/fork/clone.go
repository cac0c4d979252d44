package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Files go with a request. Nil ones are /dev/null.
type Files struct {
	Streams [standardStreams]*os.File
	// Cgroup is a v2 directory, Root a detached mount tree, the others are namespaces, as Sandbox says; a
	// tree is used up by one request.
	Cgroup, Net, Root, IPC, UTS *os.File
	// init is the pidfd of the clone's first process, for its children.
	init *os.File
}

// Phase is a part of the making of a clone.
type Phase struct {
	Name string
	Took time.Duration
}

// Clone is a copy of the template that has not run an instruction of the application's: it waits in the stub.
type Clone struct {
	// PID in our pid namespace, of the first process.
	PID    int
	Phases []Phase

	process *linux.Pidfd
	gate    *os.File
	// children are the other processes.
	children []*Clone
}

// OpError is an op that the kernel refused.
type OpError struct {
	// Op is list, number and purpose.
	Op    string
	Errno syscall.Errno
}

func (e *OpError) Error() string { return e.Op + ": " + e.Errno.Error() }

// Unwrap returns the errno.
func (e *OpError) Unwrap() error { return e.Errno }

// ErrZygoteGone means that a template makes no more clones.
var ErrZygoteGone = errors.New("zygote has ended")

var errCloneEnded = errors.New("clone has ended by itself")

// message is what zygote and clones send.
type message struct {
	kind, a, b, number uint64
	pid                int
	times              []byte
}

func (z *zygote) receive(ctx context.Context) (m message, err error) {
	b := make([]byte, pageSize)
	n, pid, err := z.control.Receive(ctx, b)
	switch {
	case err != nil:
		return m, err
	case n == 0:
		return m, ErrZygoteGone
	case n < messageSize:
		return m, io.ErrUnexpectedEOF
	}
	word := func(n int) uint64 { return binary.LittleEndian.Uint64(b[8*n:]) }
	return message{word(0), word(1), word(2), word(3), pid, b[messageSize:n]}, nil
}

// failure is the error of a message that is none of success.
func (z *zygote) failure(p *program, m message) error {
	switch m.kind {
	case kindFailed:
		op := z.program.program.at(m.a)
		if m.a >= z.program.Request && m.a < z.program.Request+requestSize {
			op = p.at(m.a)
		}
		return &OpError{op, syscall.Errno(-int64(m.b))}
	case kindCloned:
		return &OpError{"clone the template", syscall.Errno(-int64(m.a))}
	}
	return fmt.Errorf("message of kind %d: %w", m.kind, syscall.EPROTO)
}

// Clone makes a copy of the template. It waits: Release lets it go, Discard ends it. On an error no process is left.
func (t *Template) Clone(ctx context.Context, s Sandbox, f Files) (_ *Clone, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return nil, fmt.Errorf("clone template %d: %w", t.pid, ErrZygoteGone)
	}
	began := time.Now()
	if !s.Root && slices.ContainsFunc(t.zygotes(), func(z *zygote) bool { return z.program.SharedFiles }) {
		return nil, fmt.Errorf("clone template %d: it writes to mapped files or has files of sockets, and the clone has no root of its own", t.pid)
	}
	if s.clocks, err = t.clocks.now(); err != nil {
		return nil, err
	}
	t.number++
	c := new(Clone)
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("clone template %d: %w", t.pid, err), c.Discard())
		}
	}()
	ipc, err := t.copyIPC(&s, &f)
	if err != nil {
		return nil, err
	}
	if ipc != nil {
		defer ipc.Close()
	}
	times, err := t.make(ctx, c, t.number, s, t.files(f))
	if err != nil {
		return nil, err
	}
	c.Phases = laps(times, time.Since(began))
	if err := t.addChildren(ctx, c, s, f); err != nil {
		return nil, err
	}
	return c, nil
}

// files are those of a request, in the order of its descriptors; the first is the gate's place.
func (t *Template) files(f Files) []*os.File {
	list := []*os.File{nil, f.Streams[0], f.Streams[1], f.Streams[2], f.Cgroup, f.Net, f.Root, f.IPC, f.UTS, f.init, nil}
	for n := range list {
		if list[n] == nil {
			list[n] = t.filler
		}
	}
	return list
}

// make has the zygote make a clone of its process, and follows it until it waits at its gate. Whatever comes of it is in c.
func (z *zygote) make(ctx context.Context, c *Clone, number uint64, s Sandbox, files []*os.File) (times []byte, err error) {
	packet, request, err := z.program.request(number, s)
	if err != nil {
		return nil, err
	}
	if z.offsets != nil {
		files[fdOffsets] = z.offsets
	}
	if files[fdGate], c.gate, err = os.Pipe(); err != nil {
		return nil, err
	}
	err = z.control.Send(packet, files...)
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		err = fmt.Errorf("%w: %w", ErrZygoteGone, err)
	}
	if err := errors.Join(err, files[fdGate].Close()); err != nil {
		return nil, fmt.Errorf("send request: %w", err)
	}
	if times, err = z.attend(ctx, c, number, request); err != nil {
		return nil, err
	}
	return times, checkClocks(c.PID, s)
}

// attend follows a clone from its request until it is ready and the zygote listens again.
func (z *zygote) attend(ctx context.Context, c *Clone, number uint64, request *program) (times []byte, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer cancel(nil)
	// Its end of the socket may outlive it: a clone has it until it runs.
	watch.Go(func() {
		if z.process.Wait(ctx) == nil {
			cancel(ErrZygoteGone)
		}
	})
	for cloned := false; !cloned || times == nil; {
		m, err := z.receive(ctx)
		if err != nil {
			return nil, z.last(ctx, c, number, request, err)
		}
		switch {
		case m.number != number:
		case m.kind == kindBorn:
			c.PID = m.pid
			c.process, err = linux.OpenPidfd(m.pid)
			if errors.Is(err, syscall.ESRCH) {
				cancel(errCloneEnded)
				return nil, z.last(ctx, c, number, request, err)
			}
			if err != nil {
				return nil, err
			}
			watch.Go(func() {
				if c.process.Wait(ctx) == nil {
					cancel(errCloneEnded)
				}
			})
		case m.kind == kindReady:
			times = m.times
		case m.kind == kindCloned && int64(m.a) >= 0:
			cloned = true
		default:
			return nil, z.failure(request, m)
		}
	}
	return times, nil
}

// lastWords is how long a message may take that was sent before its sender ended.
const lastWords = 20 * time.Millisecond

// last is the error of a clone that has ended: it may have said why.
func (z *zygote) last(ctx context.Context, c *Clone, number uint64, request *program, err error) error {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, ErrZygoteGone):
		return ErrZygoteGone
	case !errors.Is(cause, errCloneEnded):
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
	defer cancel()
	for {
		m, err := z.receive(ctx)
		if err != nil {
			return errCloneEnded
		}
		if m.number == number && m.kind == kindFailed && m.pid == c.PID {
			return z.failure(request, m)
		}
	}
}

// laps makes phases of a clone's notes; the first is what came before the clone's first op, and the way of its last message.
func laps(times []byte, total time.Duration) []Phase {
	at := func(n int) time.Duration {
		return time.Duration(binary.LittleEndian.Uint64(times[16*n:]))*time.Second + time.Duration(binary.LittleEndian.Uint64(times[16*n+8:]))
	}
	list := []Phase{{"clone", total}}
	for n, name := range phases {
		if len(times) < 16*(n+2) {
			return list
		}
		took := at(n+1) - at(n)
		list[0].Took -= took
		list = append(list, Phase{name, took})
	}
	return list
}

// Process is the pidfd of the clone's first process, which the clone keeps.
func (c *Clone) Process() *linux.Pidfd { return c.process }

// PIDs are those of all its processes in our pid namespace, the first one's first.
func (c *Clone) PIDs() []int {
	list := []int{c.PID}
	for _, child := range c.children {
		list = append(list, child.PID)
	}
	return list
}

// Release lets the clone run. To hold it on, freeze its cgroup before. After an error it may run in part: the caller ends it.
func (c *Clone) Release() error {
	for _, child := range c.children {
		err := errors.Join(child.Release(), child.process.Close())
		child.process = nil // it ends with the first
		if err != nil {
			return err
		}
	}
	_, err := c.gate.Write([]byte{1})
	return errors.Join(err, c.gate.Close())
}

// Discard ends the clone and waits until it has ended; it may be called whatever has become of the clone. With its first process all end.
func (c *Clone) Discard() error {
	var all error
	if c.gate != nil {
		all = c.gate.Close()
	}
	if errors.Is(all, os.ErrClosed) {
		all = nil // was released
	}
	if c.process != nil {
		if err := c.process.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return errors.Join(all, err)
		}
		all = errors.Join(all, c.process.Wait(context.Background()), c.process.Close())
	}
	for _, child := range c.children {
		all = errors.Join(all, child.Discard())
	}
	return all
}
