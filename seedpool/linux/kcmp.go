package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// kcmpFile is KCMP_FILE of include/uapi/linux/kcmp.h.
const kcmpFile = 0

// SameDescription says whether two descriptors of a process are one open file: they share offset and flags, as dup makes them.
func SameDescription(pid, a, b int) (bool, error) {
	order, _, errno := unix.Syscall6(unix.SYS_KCMP, uintptr(pid), uintptr(pid), kcmpFile, uintptr(a), uintptr(b), 0)
	if errno != 0 {
		return false, fmt.Errorf("compare descriptors %d and %d of %d: %w", a, b, pid, os.NewSyscallError("kcmp", errno))
	}
	return order == 0, nil
}
