package linux

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The handshake of userfaultfd, include/uapi/linux/userfaultfd.h.
const (
	uffdAPI          = 0xaa
	uffdioAPI        = 0xc018aa3f
	uffdMinorOfShmem = 1 << 10
)

type uffdioAPIArg struct{ api, features, ioctls uint64 }

// probeUserfaultfd asks for minor faults on shared memory; a kernel without them refuses the handshake.
func probeUserfaultfd() error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return os.NewSyscallError("userfaultfd", errno)
	}
	arg := uffdioAPIArg{api: uffdAPI, features: uffdMinorOfShmem}
	_, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uffdioAPI, uintptr(unsafe.Pointer(&arg)))
	var err error
	if errno != 0 {
		err = os.NewSyscallError("ioctl UFFDIO_API", errno)
	}
	return errors.Join(err, unix.Close(int(fd)))
}
