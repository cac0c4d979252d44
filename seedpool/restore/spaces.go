package restore

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"sync"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// spaces are the address spaces of an instance, those of its forks among them, as one who serves them: every fault is answered with zeros.
//
// Lock order: mapping, then mu. mapping is held for reading while a fault is answered, and wholly while the store's pages are being mapped.
type spaces struct {
	// lost is closed when they can no longer be served.
	lost    chan struct{}
	mapping sync.RWMutex
	// routines are those that read events, and those of the embedding type that end with close.
	routines sync.WaitGroup

	mu     sync.Mutex
	list   []*linux.Userfaultfd           // +checklocks:mu
	sweep  int                            // +checklocks:mu: how many there are when the dead ones are looked for
	tell   func(*linux.Userfaultfd) error // +checklocks:mu: is told of each one that comes; nil: nobody
	err    error                          // +checklocks:mu: why they are lost
	closed bool                           // +checklocks:mu
}

// leastSweep is how many address spaces may have ended before anybody looks.
const leastSweep = 16

// Lost is closed when the memory can no longer be served: the instance must be killed.
func (s *spaces) Lost() <-chan struct{} { return s.lost }

// Err is why.
func (s *spaces) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// close lets go of all. It does not wait.
func (s *spaces) close() error {
	s.mu.Lock()
	s.closed = true
	list := s.list
	s.list = nil
	s.mu.Unlock()
	var errs []error
	for _, u := range list {
		errs = append(errs, u.Close())
	}
	return errors.Join(errs...)
}

// run starts a routine that ends after close; false: it is closed already.
func (s *spaces) run(routine func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.routines.Go(routine)
	}
	return !s.closed
}

// add serves one more.
func (s *spaces) add(u *linux.Userfaultfd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = u.Close()
		return
	}
	if len(s.list) >= s.sweep {
		s.list = slices.DeleteFunc(s.list, func(u *linux.Userfaultfd) bool { return !u.Alive() && u.Close() == nil })
		s.sweep = 2*len(s.list) + leastSweep
	}
	s.list = append(s.list, u)
	s.routines.Go(func() { s.serve(u) })
	if s.tell != nil {
		if err := s.tell(u); err != nil {
			s.loseLocked(err)
		}
	}
}

// serve answers the faults of one until it is closed.
func (s *spaces) serve(u *linux.Userfaultfd) {
	for {
		events, err := u.Read()
		// The children first: they run already.
		for _, e := range events {
			if e.Child != nil {
				s.add(e.Child)
			}
		}
		for _, e := range events {
			if e.Address != 0 && err == nil {
				err = s.answer(u, e)
			}
		}
		switch {
		case errors.Is(err, os.ErrClosed):
			return
		case err != nil:
			s.lose(err)
			return
		}
	}
}

func (s *spaces) answer(u *linux.Userfaultfd, e linux.FaultEvent) error {
	s.mapping.RLock()
	defer s.mapping.RUnlock()
	err := u.Zero(e.Address, e.Write)
	if errors.Is(err, os.ErrProcessDone) {
		return nil // whoever looks for the dead closes it
	}
	return err
}

// lose tells that faults are no longer answered. The userfaultfds stay open, so that nobody goes on with wrong memory.
func (s *spaces) lose(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.loseLocked(err)
}

func (s *spaces) loseLocked(err error) {
	if s.err == nil {
		s.err = fmt.Errorf("serve memory: %w", err)
		close(s.lost)
	}
}
