package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"
)

// faultAround is how much of a file the kernel maps around the page that was asked for, if it is in the page cache (fault_around_bytes).
const faultAround = 64 << 10

// MapProgram has a process's code, of its program and libraries, mapped: each page that it has not been to would cost it a fault. The process need not run, and does not
// notice. What is not in the page cache is read.
func MapProgram(pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer memory.Close()
	for line := range strings.Lines(string(maps)) {
		var start, end, offset, inode uint64
		var perms, device string
		if _, err := fmt.Sscanf(line, "%x-%x %s %x %s %d", &start, &end, &perms, &offset, &device, &inode); err != nil {
			return fmt.Errorf("read mapping %q: %w", line, err)
		}
		if inode == 0 || !strings.Contains(perms, "x") {
			continue
		}
		for at := start; at < end; at += faultAround {
			// Beyond the end of its file a mapping has no pages.
			if _, err := memory.ReadAt(make([]byte, 1), int64(at)); errors.Is(err, syscall.EIO) {
				break
			} else if err != nil {
				return err
			}
		}
	}
	return nil
}
