package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Control is our end of a packet socket to a process that we steer. Descriptors go with a packet; each packet that comes says who sent it.
type Control struct{ file *os.File }

// NewControl takes over one end of a SOCK_SEQPACKET pair.
func NewControl(end *os.File) (*Control, error) {
	fd := int(end.Fd())
	err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1)
	if err == nil {
		err = unix.SetNonblock(fd, true)
	}
	if err != nil {
		return nil, errors.Join(os.NewSyscallError("setsockopt SO_PASSCRED", err), end.Close())
	}
	// The runtime watches a file only if it is non-blocking when it gets it.
	ours, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err := errors.Join(os.NewSyscallError("fcntl", err), end.Close()); err != nil {
		return nil, err
	}
	return &Control{os.NewFile(uintptr(ours), "control")}, nil
}

// Close ends the connection: the process reads an end of file.
func (c *Control) Close() error { return c.file.Close() }

// Send sends one packet with descriptors.
func (c *Control) Send(packet []byte, files ...*os.File) error {
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, f := range files {
			fds[i] = int(f.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	raw, err := c.file.SyscallConn()
	if err != nil {
		return err
	}
	var sent error
	err = raw.Write(func(fd uintptr) bool {
		sent = unix.Sendmsg(int(fd), packet, rights, nil, unix.MSG_NOSIGNAL)
		return !errors.Is(sent, unix.EAGAIN)
	})
	return errors.Join(err, os.NewSyscallError("sendmsg", sent))
}

// Receive waits for a packet and returns its length and the sender's pid, as our pid namespace counts. The other side's end is io-like: 0 bytes, no error.
func (c *Control) Receive(ctx context.Context, packet []byte) (n, pid int, err error) {
	raw, err := c.file.SyscallConn()
	if err != nil {
		return 0, 0, err
	}
	if err := c.file.SetReadDeadline(time.Time{}); err != nil {
		return 0, 0, err
	}
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = c.file.SetReadDeadline(time.Unix(1, 0))
	})
	// The deadline is this call's alone: set a moment later it would look like the other side's end to the next.
	defer func() {
		if !stop() {
			<-ended
		}
	}()
	oob := make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	var got int
	var received error
	err = raw.Read(func(fd uintptr) bool {
		n, got, _, _, received = unix.Recvmsg(int(fd), packet, oob, unix.MSG_CMSG_CLOEXEC)
		return !errors.Is(received, unix.EAGAIN)
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return 0, 0, ctx.Err()
	}
	if err := errors.Join(err, os.NewSyscallError("recvmsg", received)); err != nil || n == 0 {
		return 0, 0, err
	}
	pid, err = senderOf(oob[:got])
	return n, pid, err
}

func senderOf(oob []byte) (int, error) {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return 0, err
	}
	for i := range messages {
		if who, err := unix.ParseUnixCredentials(&messages[i]); err == nil {
			return int(who.Pid), nil
		}
	}
	return 0, fmt.Errorf("packet without a sender: %w", unix.EPROTO)
}
