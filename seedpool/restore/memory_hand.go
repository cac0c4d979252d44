package restore

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// The protocol between a memory and its second holder: a byte for each userfaultfd, which comes with it, and one that says that the holder has all that
// there are. More may follow, each before or soon after the first instruction of the child that it belongs to. The holder says nothing: it is there, or not.
const (
	msgSpace = 'u'
	msgAll   = 'a'
)

// handTimeout bounds how long a holder may take to read what it is sent.
const handTimeout = 5 * time.Second

// errLeft means that the second holder has ended or has let go of the memory.
var errLeft = errors.New("its second holder is gone")

// Offer makes a socket on which one other process can get hold of the memory (Hold). The memory is lost when it has come and goes before Close: whoever is the
// last to hold the memory of an instance must not keep it alive.
func (m *Memory) Offer(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	defer dir.Close()
	// An address of a socket is short, and the directory's name may be long.
	l, err := linux.ListenForOwnUsers(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path)))
	if err != nil {
		return fmt.Errorf("offer memory: %w", err)
	}
	l.SetUnlinkOnClose(false) // its address means nothing any more then
	m.mu.Lock()
	m.door = l
	m.mu.Unlock()
	if !m.run(func() { m.attend(l) }) {
		return l.Close()
	}
	return nil
}

// attend hands the memory to who comes first, and waits until he goes.
func (m *Memory) attend(l *linux.OwnUsers) {
	conn, err := l.AcceptUnix()
	if err == nil {
		_ = l.Close() // as Close may have done
		err = m.hand(conn)
	}
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	if errors.Is(err, net.ErrClosed) {
		return
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errLeft
	}
	m.lose(err)
}

// hand sends all userfaultfds that there are, and has those that come sent, too.
func (m *Memory) hand(conn *net.UnixConn) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return errors.Join(net.ErrClosed, conn.Close())
	}
	m.holder = conn
	// The guard first: from then on the holder is waited for when we are gone.
	var err error
	if m.second, err = linux.OpenPeer(conn); err != nil {
		return err
	}
	m.tellGuardLocked(func(guard *net.UnixConn) error { return sendProcess(guard, msgSecond, m.second) })
	for _, u := range m.list {
		if err := send(conn, u); err != nil {
			return err
		}
	}
	m.handed = true
	_, err = conn.Write([]byte{msgAll})
	return err
}

// announceLocked tells those who hold the memory of one more address space.
func (m *Memory) announceLocked(u *linux.Userfaultfd) error {
	m.tellGuardLocked(func(guard *net.UnixConn) error { return send(guard, u) })
	if !m.handed {
		return nil
	}
	return send(m.holder, u)
}

func send(conn *net.UnixConn, u *linux.Userfaultfd) error {
	if err := conn.SetWriteDeadline(time.Now().Add(handTimeout)); err != nil {
		return err
	}
	f, err := u.Duplicate()
	if err != nil {
		return err
	}
	return errors.Join(linux.SendFile(conn, []byte{msgSpace}, f), f.Close())
}
