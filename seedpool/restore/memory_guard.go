package restore

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Protect has a guard hold the memory, which is sent a connection of its own for that (Guard). first is the instance's first process, open until Close. The instance must not
// run before it is first called. A guard that has ended is no loss as long as we and the second holder are there: another takes its place by another call.
func (m *Memory) Protect(guard *net.UnixConn, first *linux.Pidfd) error {
	ours, theirs, err := linux.StreamPair("ward")
	if err != nil {
		return err
	}
	defer theirs.Close()
	conn, err := linux.Conn(ours)
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return conn.Close()
	}
	if m.guard != nil {
		_ = m.guard.Close()
	}
	m.guard = conn
	if err := m.protectLocked(guard, theirs, first); err != nil {
		return fmt.Errorf("have memory guarded: %w", err)
	}
	return nil
}

// protectLocked sends a guard its end of the connection, and on ours all that there is.
func (m *Memory) protectLocked(guard *net.UnixConn, theirs *os.File, first *linux.Pidfd) error {
	if err := guard.SetWriteDeadline(time.Now().Add(handTimeout)); err != nil {
		return err
	}
	err := errors.Join(linux.SendFile(guard, []byte{msgWard}, theirs), sendProcess(m.guard, msgFirst, first))
	if err == nil && m.second != nil {
		err = sendProcess(m.guard, msgSecond, m.second)
	}
	for _, u := range m.list {
		if err != nil {
			return err
		}
		err = send(m.guard, u)
	}
	return err
}

// tellGuardLocked sends the guard something. One that has ended is replaced by who has called Protect.
func (m *Memory) tellGuardLocked(tell func(guard *net.UnixConn) error) {
	if m.guard != nil {
		_ = tell(m.guard)
	}
}

// sendProcess sends a process after a byte that says which one it is.
func sendProcess(conn *net.UnixConn, which byte, p *linux.Pidfd) error {
	if err := conn.SetWriteDeadline(time.Now().Add(handTimeout)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte{which}); err != nil {
		return err
	}
	return linux.SendFile(conn, []byte{which}, p.File())
}
