package linux

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// OwnUsers is a listener on a unix socket that hears only processes of our own user: who may talk to us is not left to the modes of a file and its directories alone.
// Whoever else comes is hung up on without a word.
type OwnUsers struct{ *net.UnixListener }

// ListenForOwnUsers makes a socket at a path where there is none.
func ListenForOwnUsers(path string) (*OwnUsers, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &OwnUsers{l}, nil
}

// Accept implements net.Listener.
func (l *OwnUsers) Accept() (net.Conn, error) { return l.AcceptUnix() }

// AcceptUnix waits for the next connection that is one of ours.
func (l *OwnUsers) AcceptUnix() (*net.UnixConn, error) {
	for {
		conn, err := l.UnixListener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		if checkOwnUser(conn) == nil {
			return conn, nil
		}
		_ = conn.Close()
	}
}

// checkOwnUser fails for a connection that a process of another user has made.
func checkOwnUser(conn *net.UnixConn) error {
	cred, err := peerOf(conn)
	if err == nil && int(cred.Uid) != os.Geteuid() {
		err = fmt.Errorf("peer is user %d: %w", cred.Uid, unix.EPERM)
	}
	return err
}

// peerOf is what the kernel says of who has made a connection, at that moment.
func peerOf(conn *net.UnixConn) (cred *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var result error
	err = raw.Control(func(socket uintptr) {
		cred, result = unix.GetsockoptUcred(int(socket), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	return cred, errors.Join(err, os.NewSyscallError("getsockopt SO_PEERCRED", result))
}
