package restore

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Holder holds the memory of an instance beside the keeper, and serves it when the keeper has died.
//
// Life: Hold gets it. From then on the instance may run: as long as the holder is there no fault is answered wrongly. When the keeper ends, the faults that it
// has not answered are met again and answered here. What may be lost with it is the userfaultfd of a child that was being made at that moment: a child that
// nobody is told of is found by its mappings, Lost tells, and the instance must be killed.
type Holder struct {
	spaces
	conn   *net.UnixConn
	keeper *linux.Pidfd
	cgroup linux.Cgroup
	// held are those that the keeper serves.
	held heldSpaces // +checklocks:mu
	// over ends what waits for the keeper.
	over context.CancelFunc
}

// Hold gets hold of a memory that is offered at a path. cgroup is that of the instance when it runs.
func Hold(ctx context.Context, path string, cgroup linux.Cgroup) (_ *Holder, err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, fmt.Errorf("hold memory: %w", err)
	}
	defer dir.Close()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		return nil, fmt.Errorf("hold memory: %w", err)
	}
	h := &Holder{spaces: spaces{lost: make(chan struct{}), sweep: leastSweep}, conn: conn.(*net.UnixConn), cgroup: cgroup}
	life, over := context.WithCancel(context.WithoutCancel(ctx))
	h.over = over
	if err := h.begin(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("hold memory: %w", err), h.Close())
	}
	h.run(func() { h.follow(life) })
	return h, nil
}

// begin receives all userfaultfds that there are.
func (h *Holder) begin(ctx context.Context) (err error) {
	if h.keeper, err = linux.OpenPeer(h.conn); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = h.conn.Close() })
	defer stop()
	for all := false; !all; {
		if all, err = h.receive(); err != nil {
			return errors.Join(ctx.Err(), err)
		}
	}
	return nil
}

// receive takes one message; all: the holder has what there is.
func (h *Holder) receive() (all bool, err error) {
	var kind [1]byte
	n, held, err := linux.ReceiveUserfaultfd(h.conn, kind[:])
	switch {
	case err != nil:
		return false, err
	case n == 0:
		return false, errLeft
	case held == nil && kind[0] == msgAll:
		return true, nil
	case held == nil || kind[0] != msgSpace:
		return false, fmt.Errorf("message %q: not expected", kind[0])
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held.add(*held)
	return false, nil
}

// follow receives the userfaultfds of children as long as the keeper serves them, and then serves all itself.
func (h *Holder) follow(life context.Context) {
	var err error
	for err == nil {
		_, err = h.receive()
	}
	if life.Err() != nil {
		return
	}
	h.mu.Lock()
	held := h.held
	h.held = heldSpaces{}
	h.mu.Unlock()
	for _, u := range held.list {
		served := u.Serve()
		h.add(served)
		// What the keeper was told of and has not answered is told again.
		if err := served.WakeAll(); err != nil && !errors.Is(err, os.ErrClosed) && served.Alive() {
			h.lose(err)
		}
	}
	// Only when it has ended are all of its files closed.
	if err := h.keeper.Wait(life); err != nil {
		return
	}
	if err := checkRegistered(h.cgroup); err != nil && life.Err() == nil {
		h.lose(err)
	}
}

// Close lets go of it. The instance must have ended, or is killed by its keeper.
func (h *Holder) Close() error {
	h.over()
	err := errors.Join(h.conn.Close(), h.close())
	h.routines.Wait()
	h.mu.Lock()
	defer h.mu.Unlock()
	err = errors.Join(err, h.held.close())
	if h.keeper != nil {
		err = errors.Join(err, h.keeper.Close())
	}
	return err
}
