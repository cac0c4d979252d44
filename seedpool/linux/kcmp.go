package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kcmpFile is KCMP_FILE of include/uapi/linux/kcmp.h.
const kcmpFile = 0

// kcmpShared are what two processes have in common that were made with the flags of clone(2) of these names: KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND.
var kcmpShared = map[uintptr]string{1: "memory", 2: "descriptors", 3: "working directory", 4: "signal actions"}

// SharedState names what two processes have in common as only threads have, empty if nothing.
func SharedState(pid, other int) (string, error) {
	for kind, name := range kcmpShared {
		order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(other), kind, 0, 0, 0)
		if errno != 0 {
			return "", fmt.Errorf("compare %s of %d and %d: %w", name, pid, other, os.NewSyscallError("kcmp", errno))
		}
		if order == 0 {
			return name, nil
		}
	}
	return "", nil
}

// SameDescription says whether a descriptor of a process and one of another, or of the same, are one open file: they share offset and flags, as dup and fork make them.
func SameDescription(pid, fd, other, otherFD int) (bool, error) {
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(other), kcmpFile, uintptr(fd), uintptr(otherFD), 0)
	if errno != 0 {
		return false, fmt.Errorf("compare descriptor %d of %d with %d of %d: %w", fd, pid, otherFD, other, os.NewSyscallError("kcmp", errno))
	}
	return order == 0, nil
}
