package linux

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// ReceiveFile reads bytes from a stream socket and the one file that may come with them; nil: none came.
func ReceiveFile(conn *net.UnixConn, data []byte) (n int, f *os.File, err error) {
	n, fd, err := receive(conn, data)
	if fd >= 0 {
		f = os.NewFile(uintptr(fd), "received")
	}
	return n, f, err
}

// ReceiveUserfaultfd reads bytes from a stream socket and the one userfaultfd that may come with them; nil: none came.
func ReceiveUserfaultfd(conn *net.UnixConn, data []byte) (n int, h *HeldUserfaultfd, err error) {
	n, fd, err := receive(conn, data)
	if fd >= 0 {
		h = &HeldUserfaultfd{fd}
	}
	return n, h, err
}

// ReceivePidfd reads a byte from a stream socket and the process that must come with it.
func ReceivePidfd(conn *net.UnixConn) (*Pidfd, error) {
	_, fd, err := receive(conn, make([]byte, 1))
	if err != nil {
		return nil, err
	}
	if fd < 0 {
		return nil, fmt.Errorf("receive process: %w", unix.EPROTO)
	}
	pid, err := pidOf(fd)
	if err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return adoptPidfd(pid, fd)
}

// Conn makes a connection of an open socket, whether it succeeds or not the file is closed.
func Conn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, err
	}
	conn, ok := c.(*net.UnixConn)
	if !ok {
		return nil, errors.Join(fmt.Errorf("%s: not a unix socket: %w", f.Name(), unix.EPROTOTYPE), c.Close())
	}
	return conn, nil
}

// receive gives -1 when no file has come.
func receive(conn *net.UnixConn, data []byte) (n, fd int, err error) {
	oob := make([]byte, unix.CmsgSpace(4))
	// net reads with MSG_CMSG_CLOEXEC.
	n, got, _, _, err := conn.ReadMsgUnix(data, oob)
	if err != nil || got == 0 {
		return n, -1, err
	}
	received, err := unix.ParseSocketControlMessage(oob[:got])
	if err != nil || len(received) != 1 {
		return n, -1, errors.Join(err, fmt.Errorf("receive file: %w", unix.EPROTO))
	}
	fds, err := unix.ParseUnixRights(&received[0])
	if err != nil || len(fds) != 1 {
		return n, -1, errors.Join(err, fmt.Errorf("receive file: %w", unix.EPROTO))
	}
	return n, fds[0], nil
}

// SendFile sends bytes and a file over a stream socket.
func SendFile(conn *net.UnixConn, data []byte, f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Control(func(fd uintptr) { _, _, sent = conn.WriteMsgUnix(data, unix.UnixRights(int(fd)), nil) })
	return errors.Join(err, sent)
}

// OpenPeer opens the process that has made the other end of a connection, or that listens there.
func OpenPeer(conn *net.UnixConn) (*Pidfd, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	var cred *unix.Ucred
	var fd int
	var result error
	if err := raw.Control(func(socket uintptr) {
		if cred, result = unix.GetsockoptUcred(int(socket), unix.SOL_SOCKET, unix.SO_PEERCRED); result == nil {
			fd, result = unix.GetsockoptInt(int(socket), unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		}
	}); err != nil {
		return nil, err
	}
	if result != nil {
		return nil, os.NewSyscallError("getsockopt SO_PEERPIDFD", result)
	}
	return adoptPidfd(int(cred.Pid), fd)
}
