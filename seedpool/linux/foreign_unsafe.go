package linux

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// option reads size bytes of a socket option.
func option(fd, level, name, size int) ([]byte, error) {
	value := make([]byte, size)
	length := uint32(size)
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name), uintptr(unsafe.Pointer(&value[0])), uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return nil, os.NewSyscallError("getsockopt", errno)
	}
	return value[:min(int(length), size)], nil
}

// filtered says whether a packet filter is attached: with no room for it, SO_GET_FILTER answers with its length.
func filtered(fd int) (bool, error) {
	var length uint32
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, 0, uintptr(unsafe.Pointer(&length)), 0); errno != 0 {
		return false, os.NewSyscallError("getsockopt SO_GET_FILTER", errno)
	}
	return length != 0, nil
}

// address is what getsockname(2) or getpeername(2) answers, byte by byte: no name of a unix socket is like another.
func address(fd int, call uintptr) ([]byte, error) {
	name := make([]byte, unix.SizeofSockaddrAny)
	length := uint32(len(name))
	if _, _, errno := unix.Syscall(call, uintptr(fd), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&length))); errno != 0 {
		return nil, os.NewSyscallError("address of a socket", errno)
	}
	return name[:min(int(length), len(name))], nil
}
