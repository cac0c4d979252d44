package ptrace

import (
	"encoding/binary"
	"errors"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// xstateMax is beyond any XSAVE area there is: 11 KiB with AMX tiles.
const xstateMax = 64 << 10

func request(name string, request, tid int, address, data uintptr) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(tid), address, data, 0, 0); errno != 0 {
		return os.NewSyscallError("ptrace "+name, errno)
	}
	return nil
}

func seize(tid, options int) error {
	return request("seize", unix.PTRACE_SEIZE, tid, 0, uintptr(options))
}

func getXState(tid int) ([]byte, error) {
	b := make([]byte, xstateMax)
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETREGSET, uintptr(tid), unix.NT_X86_XSTATE, uintptr(unsafe.Pointer(&iov)), 0, 0); errno != 0 {
		return nil, os.NewSyscallError("ptrace getregset", errno)
	}
	return b[:iov.Len:iov.Len], nil
}

func setXState(tid int, b []byte) error {
	if len(b) == 0 {
		return os.NewSyscallError("ptrace setregset", unix.EINVAL)
	}
	iov := unix.Iovec{Base: &b[0], Len: uint64(len(b))}
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SETREGSET, uintptr(tid), unix.NT_X86_XSTATE, uintptr(unsafe.Pointer(&iov)), 0, 0); errno != 0 {
		return os.NewSyscallError("ptrace setregset", errno)
	}
	return nil
}

func getSigMask(tid int) (mask uint64, err error) {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GETSIGMASK, uintptr(tid), 8, uintptr(unsafe.Pointer(&mask)), 0, 0); errno != 0 {
		return 0, os.NewSyscallError("ptrace getsigmask", errno)
	}
	return mask, nil
}

func setSigMask(tid int, mask uint64) error {
	if _, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SETSIGMASK, uintptr(tid), 8, uintptr(unsafe.Pointer(&mask)), 0, 0); errno != 0 {
		return os.NewSyscallError("ptrace setsigmask", errno)
	}
	return nil
}

func getRseq(tid int) (RseqConfig, error) {
	var b [24]byte // struct ptrace_rseq_configuration
	n, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_GET_RSEQ_CONFIGURATION, uintptr(tid), uintptr(len(b)), uintptr(unsafe.Pointer(&b)), 0, 0)
	if errno != 0 {
		return RseqConfig{}, os.NewSyscallError("ptrace get_rseq_configuration", errno)
	}
	if int(n) < len(b) {
		return RseqConfig{}, errors.New("ptrace get_rseq_configuration: short answer")
	}
	return RseqConfig{
		Pointer: binary.LittleEndian.Uint64(b[0:]), Size: binary.LittleEndian.Uint32(b[8:]),
		Signature: binary.LittleEndian.Uint32(b[12:]), Flags: binary.LittleEndian.Uint32(b[16:]),
	}, nil
}
