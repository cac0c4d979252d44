package restore

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// lazySocket is where CRIU looks for whoever serves the memory that it does not load, in its work directory.
const lazySocket = "lazy-pages.socket"

// listen takes the userfaultfds that CRIU sends, on a socket in the work directory, until the returned function is called.
func (m *Memory) listen(workDir *os.File) (stop func() error, err error) {
	// An address of a socket is short, and the directory's name may be long.
	path := fmt.Sprintf("/proc/self/fd/%d/%s", workDir.Fd(), lazySocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := linux.ListenForOwnUsers(path)
	if err != nil {
		return nil, fmt.Errorf("listen for userfaultfds: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		if err := m.accept(ctx, l); err != nil && ctx.Err() == nil {
			m.lose(err)
		}
	}()
	return func() error {
		cancel()
		err := l.Close()
		<-ended
		return err
	}, nil
}

// accept speaks the protocol of CRIU's lazy pages: for each task its pid, as its pid namespace counts, and then its userfaultfd with one byte; at last a word
// that all have been sent. Nothing is answered, but CRIU wants somebody to be there until the end.
func (m *Memory) accept(ctx context.Context, l *linux.OwnUsers) error {
	conn, err := l.AcceptUnix()
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	for range m.hot.tasks {
		if err := m.receive(conn); err != nil {
			return errors.Join(fmt.Errorf("receive userfaultfd: %w", err), conn.Close())
		}
	}
	close(m.came)
	<-ctx.Done()
	return conn.Close()
}

func (m *Memory) receive(conn *net.UnixConn) error {
	var pid int32
	for pid <= 0 { // a zombie's pid is negative, and nothing follows
		if err := binary.Read(conn, binary.NativeEndian, &pid); err != nil {
			return err
		}
	}
	n, f, err := linux.ReceiveFile(conn, make([]byte, 1))
	if err == nil && f == nil {
		err = errors.New("no file came")
	}
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	u := linux.AdoptUserfaultfd(f)
	if err := m.take(uint32(pid), u); err != nil {
		return errors.Join(err, u.Close())
	}
	m.add(u)
	return nil
}

// take notes whose a userfaultfd is.
func (m *Memory) take(pid uint32, u *linux.Userfaultfd) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	known := false
	for _, t := range m.hot.tasks {
		known = known || t.pid == pid
	}
	if !known || m.tasks[pid] != nil {
		return fmt.Errorf("task %d: not expected", pid)
	}
	m.tasks[pid] = u
	return nil
}
