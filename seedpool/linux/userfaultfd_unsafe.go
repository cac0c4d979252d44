package linux

import (
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of userfaultfd, include/uapi/linux/userfaultfd.h.
const (
	uffdAPI          = 0xaa
	uffdioAPI        = 0xc018aa3f
	uffdioRegister   = 0xc020aa00
	uffdioUnregister = 0x8010aa01
	uffdioWake       = 0x8010aa02
	uffdioCopy       = 0xc028aa03
	uffdioZeropage   = 0xc020aa04
	uffdioContinue   = 0xc020aa07
	uffdMinorOfShmem = 1 << 10
)

type uffdioAPIArg struct{ api, features, ioctls uint64 }

// uffdioRange is the argument of unregister and wake.
type uffdioRange struct{ start, length uint64 }

// uffdioFill is the argument of register, zeropage and continue. done is what the kernel says: bytes, or a negative errno.
type uffdioFill struct {
	uffdioRange
	mode uint64
	done int64
}

type uffdioCopyArg struct {
	to, from, length, mode uint64
	done                   int64
}

// zeros is a page to copy from.
var zeros [4096]byte

// probeUserfaultfd asks for minor faults on shared memory; a kernel without them refuses the handshake.
func probeUserfaultfd() error {
	fd, err := openUserfaultfd(uffdMinorOfShmem)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openUserfaultfd makes one for the calling process.
func openUserfaultfd(features uint64) (int, error) {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC|unix.O_NONBLOCK, 0, 0)
	if errno != 0 {
		return -1, os.NewSyscallError("userfaultfd", errno)
	}
	arg := uffdioAPIArg{api: uffdAPI, features: features}
	if _, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, uffdioAPI, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return -1, errors.Join(os.NewSyscallError("ioctl UFFDIO_API", errno), unix.Close(int(fd)))
	}
	return int(fd), nil
}

// overRange makes a request that has no answer but an error.
func overRange(fd uintptr, request uintptr, start, length uint64) error {
	arg := uffdioRange{start, length}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		return errno
	}
	return nil
}

// fill makes a request for a range and says how many bytes of it were done.
func fill(fd uintptr, request uintptr, start, length, mode uint64) (uint64, error) {
	arg := uffdioFill{uffdioRange: uffdioRange{start, length}, mode: mode}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&arg)))
	return uint64(max(arg.done, 0)), asError(errno)
}

// copyZeros puts a private page of zeros at an address.
func copyZeros(fd uintptr, address uint64) error {
	arg := uffdioCopyArg{to: address, from: uint64(uintptr(unsafe.Pointer(&zeros[0]))), length: uint64(len(zeros))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, uffdioCopy, uintptr(unsafe.Pointer(&arg)))
	return asError(errno)
}

func asError(errno unix.Errno) error {
	if errno == 0 {
		return nil
	}
	return errno
}
