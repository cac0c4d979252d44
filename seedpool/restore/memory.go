package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Memory is that of one instance of a hot image. Before the instance runs, every page that the store has is mapped in it, so that a page that is missing
// later is one that the app has dropped or never had: every fault is answered with zeros, and nothing needs to be remembered to answer it. What is
// missing is never a page of the store's: those cannot be reclaimed, and a huge page cannot take their place (place).
//
// Life: Restore fills it. From then on it serves until Close, which must not come before the instance has ended: without a userfaultfd the kernel would
// show the store's pages again where the app has dropped them. If it can no longer serve, Lost tells, and the instance waits until it is killed.
//
// Lock order: mapping, then mu. mapping is held for reading while a fault is answered, and wholly while the store's pages are being mapped.
type Memory struct {
	hot *Hot
	// came is closed when every task has sent its userfaultfd.
	came chan struct{}
	lost chan struct{}

	mapping sync.RWMutex
	readers sync.WaitGroup

	mu     sync.Mutex
	tasks  map[uint32]*linux.Userfaultfd // +checklocks:mu: by pid in the image
	spaces []*linux.Userfaultfd          // +checklocks:mu: of the tasks, and of what they have forked
	sweep  int                           // +checklocks:mu: how many spaces there are when the dead ones are looked for
	err    error                         // +checklocks:mu: why it is lost
	closed bool                          // +checklocks:mu
}

// NewMemory is for one instance, of which there is nothing yet.
func (h *Hot) NewMemory() *Memory {
	return &Memory{
		hot: h, came: make(chan struct{}), lost: make(chan struct{}), tasks: make(map[uint32]*linux.Userfaultfd), sweep: leastSweep,
	}
}

// leastSweep is how many address spaces may have ended before anybody looks.
const leastSweep = 16

// Lost is closed when the memory can no longer be served: the instance must be killed.
func (m *Memory) Lost() <-chan struct{} { return m.lost }

// Err is why.
func (m *Memory) Err() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.err
}

// Close lets go of the memory of an instance that has ended.
func (m *Memory) Close() error {
	m.mu.Lock()
	m.closed = true
	spaces := m.spaces
	m.spaces = nil
	m.mu.Unlock()
	var errs []error
	for _, u := range spaces {
		errs = append(errs, u.Close())
	}
	m.readers.Wait()
	return errors.Join(errs...)
}

// add serves one more address space.
func (m *Memory) add(u *linux.Userfaultfd) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		_ = u.Close()
		return
	}
	if len(m.spaces) >= m.sweep {
		m.spaces = slices.DeleteFunc(m.spaces, func(u *linux.Userfaultfd) bool { return !u.Alive() && u.Close() == nil })
		m.sweep = 2*len(m.spaces) + leastSweep
	}
	m.spaces = append(m.spaces, u)
	m.readers.Go(func() { m.serve(u) })
}

// serve answers the faults of one address space until it is closed.
func (m *Memory) serve(u *linux.Userfaultfd) {
	for {
		events, err := u.Read()
		// The children first: they run already.
		for _, e := range events {
			if e.Child != nil {
				m.add(e.Child)
			}
		}
		for _, e := range events {
			if e.Address != 0 && err == nil {
				err = m.answer(u, e)
			}
		}
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			m.lose(err)
			return
		}
	}
}

func (m *Memory) answer(u *linux.Userfaultfd, e linux.FaultEvent) error {
	m.mapping.RLock()
	defer m.mapping.RUnlock()
	err := u.Zero(e.Address, e.Write)
	if errors.Is(err, os.ErrProcessDone) {
		return nil // whoever looks for the dead closes it
	}
	return err
}

// lose tells that faults are no longer answered. The userfaultfds stay open, so that nobody goes on with wrong memory.
func (m *Memory) lose(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil {
		m.err = fmt.Errorf("serve memory: %w", err)
		close(m.lost)
	}
}

// arriveTimeout bounds how long the userfaultfds of tasks that CRIU has said to be complete may be on their way.
const arriveTimeout = 5 * time.Second

// fill maps the pages of the store in every task. The tasks must be stopped.
func (m *Memory) fill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, arriveTimeout)
	defer cancel()
	select {
	case <-m.came:
	case <-m.lost:
		return m.Err()
	case <-ctx.Done():
		return fmt.Errorf("wait for the userfaultfd of each task: %w", ctx.Err())
	}
	m.mapping.Lock()
	defer m.mapping.Unlock()
	for _, t := range m.hot.tasks {
		m.mu.Lock()
		u := m.tasks[t.pid]
		m.mu.Unlock()
		if err := t.fill(u); err != nil {
			return fmt.Errorf("fill memory of task %d: %w", t.pid, err)
		}
	}
	return nil
}

func (t *hotTask) fill(u *linux.Userfaultfd) error {
	for _, a := range t.shared {
		if err := u.Register(a.start, a.length, linux.FaultMissing|linux.FaultMinor); err != nil {
			return err
		}
	}
	// Of each mapping at least one page is mapped here. Only after that does a fork copy what is mapped, rather than leave the child to find it in the file.
	for _, a := range t.present {
		if err := u.Continue(a.start, a.length); err != nil {
			return err
		}
	}
	// CRIU has filled these, and has their faults wait, too.
	for _, a := range t.private {
		if err := u.Unregister(a.start, a.length); err != nil {
			return err
		}
	}
	return nil
}
