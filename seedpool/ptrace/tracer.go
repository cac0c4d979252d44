package ptrace

import (
	"errors"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrClosed is returned by every call that needs a tracer's thread after its Close.
var ErrClosed = errors.New("tracer is closed")

// Tracer is the one thread that may talk to its tracees.
type Tracer struct {
	calls chan func()
	quit  chan struct{}
	done  chan struct{}
}

// NewTracer starts the thread. Close ends it.
func NewTracer() *Tracer {
	t := &Tracer{calls: make(chan func()), quit: make(chan struct{}), done: make(chan struct{})}
	go t.start()
	return t
}

// start never unlocks: a thread that ends while locked is thrown away, and with it the kernel's notion of who traces whom. The main thread of a Go program
// cannot end, so it is kept busy while another one is found.
func (t *Tracer) start() {
	runtime.LockOSThread()
	if unix.Gettid() == unix.Getpid() {
		defer runtime.UnlockOSThread()
		other := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(other)
			t.serve()
		}()
		<-other
		return
	}
	t.serve()
}

func (t *Tracer) serve() {
	defer close(t.done)
	for {
		select {
		case call := <-t.calls:
			call()
		case <-t.quit:
			return
		}
	}
}

// do runs fn on the tracer's thread.
func (t *Tracer) do(fn func() error) error {
	result := make(chan error, 1)
	select {
	case t.calls <- func() { result <- fn() }:
		return <-result
	case <-t.done:
		return ErrClosed
	}
}

// Close ends the thread. Tracees that were not detached are let go by the kernel where they are: killed with ExitKill, else running on. To be called once.
func (t *Tracer) Close() {
	close(t.quit)
	<-t.done
}
