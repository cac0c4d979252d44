package linux

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RobustList is the head and length of a thread's list of robust futexes (get_robust_list(2)); 0 if it has none. The caller needs ptrace rights over it.
func RobustList(tid int) (head, length uint64, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_GET_ROBUST_LIST, uintptr(tid), uintptr(unsafe.Pointer(&head)), uintptr(unsafe.Pointer(&length))); errno != 0 {
		return 0, 0, fmt.Errorf("robust list of %d: %w", tid, os.NewSyscallError("get_robust_list", errno))
	}
	return head, length, nil
}
