package restore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"

	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// The protocol between a memory and a guard, on a connection of their own that the guard is sent: as with the second holder, and two processes, each after its byte. One is the
// instance's first, the other the second holder, when there is one.
const (
	msgWard   = 'w'
	msgFirst  = 'i'
	msgSecond = 'h'
)

// Guard is the life of the process that holds the memory of a keeper's instances, too, and serves none. As long as it is there a thread that faults waits, whoever else has
// ended; and an instance whose keeper and second holder are both gone is killed. It returns when the keeper has let go of it and the last instance has ended, or when it
// cannot hold what it is sent: the keeper then has another one.
func Guard(ctx context.Context, keeper *net.UnixConn) error {
	over := make(chan error)
	go func() {
		var wards sync.WaitGroup
		for {
			w, err := nextWard(keeper)
			if errors.Is(err, io.EOF) {
				wards.Wait()
				err = nil
			}
			if w == nil {
				over <- err
				return
			}
			wards.Go(func() {
				if err := w.keep(ctx); err != nil {
					over <- err
				}
			})
		}
	}()
	if err := <-over; err != nil {
		return fmt.Errorf("guard memory: %w", err)
	}
	return nil
}

// nextWard waits for a memory to be handed over.
func nextWard(keeper *net.UnixConn) (*ward, error) {
	_, f, err := linux.ReceiveFile(keeper, make([]byte, 1))
	if err == nil && f == nil {
		err = errors.New("no connection came")
	}
	if err != nil {
		return nil, err
	}
	conn, err := linux.Conn(f)
	if err != nil {
		return nil, err
	}
	return &ward{conn: conn}, nil
}

// ward is an instance that is guarded.
type ward struct {
	conn          *net.UnixConn
	first, second *linux.Pidfd
	held          heldSpaces
}

// keep holds what comes until the instance has ended, by itself or by us.
func (w *ward) keep(ctx context.Context) (err error) {
	defer func() { err = errors.Join(err, w.close()) }()
	for err == nil {
		err = w.receive()
	}
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case w.first == nil:
		return nil
	}
	return w.outlive(ctx)
}

// receive takes one message. A keeper that is cut in the middle of one has ended, too.
func (w *ward) receive() error {
	var kind [1]byte
	_, held, err := linux.ReceiveUserfaultfd(w.conn, kind[:])
	if err != nil {
		return err
	}
	if held != nil {
		w.held.add(*held)
		return nil
	}
	switch kind[0] {
	case msgAll:
		return nil
	case msgFirst:
		w.first, err = linux.ReceivePidfd(w.conn)
	case msgSecond:
		w.second, err = linux.ReceivePidfd(w.conn)
	default:
		err = fmt.Errorf("message %q: not expected", kind[0])
	}
	return err
}

// outlive waits, now that nobody else is behind the connection, for the end of the instance or of its second holder, which must not be survived.
func (w *ward) outlive(ctx context.Context) error {
	life, over := context.WithCancel(ctx)
	defer over()
	ended, alone := make(chan error, 1), make(chan error, 1)
	go func() { ended <- w.first.Wait(life) }()
	go func() {
		if w.second == nil {
			alone <- nil
			return
		}
		alone <- w.second.Wait(life)
	}()
	select {
	case err := <-ended:
		return err
	case err := <-alone:
		if err != nil {
			return err
		}
	}
	err := w.first.Signal(syscall.SIGKILL)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	log.G(ctx).WithField("pid", w.first.PID()).Error("kill instance whose keeper and shim have ended: nobody serves its memory")
	return errors.Join(err, <-ended)
}

func (w *ward) close() error {
	err := errors.Join(w.conn.Close(), w.held.close())
	for _, p := range []*linux.Pidfd{w.first, w.second} {
		if p != nil {
			err = errors.Join(err, p.Close())
		}
	}
	return err
}
