package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// siocUnixFile is SIOCUNIXFILE of include/uapi/linux/un.h.
const siocUnixFile = 0x89e0

// SocketFile is the file that a unix socket of the process is bound to, whatever its name leads to now.
func (p *Pidfd) SocketFile(fd int) (info fs.FileInfo, err error) {
	err = p.borrow(fd, func(fd int) error {
		bound, err := unix.IoctlRetInt(fd, siocUnixFile)
		if err != nil {
			return os.NewSyscallError("ioctl SIOCUNIXFILE", err)
		}
		f := os.NewFile(uintptr(bound), "file of a socket")
		info, err = f.Stat()
		return errors.Join(err, f.Close())
	})
	return info, err
}

// UnreadStream copies the bytes that wait in a stream socket of the process; they stay there. ErrUnreadable: there are others, or more than bytes.
func (p *Pidfd) UnreadStream(fd int, waiting int) (content []byte, err error) {
	err = p.borrow(fd, func(fd int) error {
		// An urgent byte is in the queue and not in the stream.
		if _, _, err := unix.Recvfrom(fd, make([]byte, 1), unix.MSG_OOB|unix.MSG_PEEK|unix.MSG_DONTWAIT); err == nil {
			return fmt.Errorf("an urgent byte: %w", ErrUnreadable)
		}
		content = make([]byte, waiting)
		n, _, err := unix.Recvfrom(fd, content, unix.MSG_PEEK|unix.MSG_DONTWAIT)
		if err == nil && n != waiting {
			return fmt.Errorf("%d of %d bytes: %w", n, waiting, ErrUnreadable)
		}
		return os.NewSyscallError("recvfrom", err)
	})
	return content, err
}

// ErrUnreadable means that what waits in a socket is more than a copy of its bytes.
var ErrUnreadable = errors.New("not all can be read")
