package restore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Memory is that of one instance of a hot image. Before the instance runs, every page that the store has is mapped in it, so that a page that is missing
// later is one that the app has dropped or never had: every fault is answered with zeros, and nothing needs to be remembered to answer it. What is
// missing is never a page of the store's: those cannot be reclaimed, and a huge page cannot take their place (place).
//
// Life: Restore fills it. From then on it serves until Close, which must not come before the instance has ended: without a userfaultfd the kernel would
// show the store's pages again where the app has dropped them. If it can no longer serve, Lost tells, and the instance waits until it is killed.
type Memory struct {
	spaces
	hot *Hot
	// came is closed when every task has sent its userfaultfd.
	came chan struct{}

	tasks map[uint32]*linux.Userfaultfd // +checklocks:mu: by pid in the image
	// door is where the second holder comes, holder who has come.
	door   *linux.OwnUsers // +checklocks:mu
	holder *net.UnixConn   // +checklocks:mu
	// handed: the holder has all that there was, and is sent what comes. second is its process.
	handed bool         // +checklocks:mu
	second *linux.Pidfd // +checklocks:mu
	// guard is the connection to who holds the memory, too, and serves nobody.
	guard *net.UnixConn // +checklocks:mu
}

// NewMemory is for one instance, of which there is nothing yet.
func (h *Hot) NewMemory() *Memory {
	m := &Memory{spaces: spaces{lost: make(chan struct{}), sweep: leastSweep}, hot: h, came: make(chan struct{}), tasks: make(map[uint32]*linux.Userfaultfd)}
	m.tell = m.announceLocked
	return m
}

// Close lets go of the memory of an instance that has ended.
func (m *Memory) Close() error {
	err := m.close()
	m.mu.Lock()
	door, holder, second, guard := m.door, m.holder, m.second, m.guard
	m.mu.Unlock()
	if door != nil {
		_ = door.Close() // it may have been closed when the holder came
	}
	if holder != nil {
		err = errors.Join(err, holder.Close())
	}
	if second != nil {
		err = errors.Join(err, second.Close())
	}
	if guard != nil {
		err = errors.Join(err, guard.Close())
	}
	m.routines.Wait()
	return err
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
