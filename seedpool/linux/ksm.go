package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ksmKnobs is where the kernel has the settings and figures of ksmd, which looks for pages of equal content and has their owners share one
// (Documentation/admin-guide/mm/ksm.rst).
const ksmKnobs = "/sys/kernel/mm/ksm"

// OfferMemory has the calling process, and all that it forks or executes from now on, offer its private memory to ksmd (PR_SET_MEMORY_MERGE: Linux 6.4; over an exec since 6.7).
func OfferMemory() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_MEMORY_MERGE, 1, 0, 0, 0))
}

// CanOfferMemory says why no process could be merged with others, or not seen to be, on this kernel; nil: it can.
func CanOfferMemory() error {
	if _, err := KSM("run"); err != nil {
		return fmt.Errorf("no KSM: %w", err)
	}
	if _, err := unix.PrctlRetInt(unix.PR_GET_MEMORY_MERGE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("no PR_SET_MEMORY_MERGE: %w", err)
	}
	_, err := OffersMemory(os.Getpid())
	return err
}

// OffersMemory says whether any memory of a process is offered to ksmd, by itself or by who has started it. An error: it has ended, or the kernel does not tell.
func OffersMemory(pid int) (bool, error) {
	stat, err := ksmStat(pid)
	if err != nil {
		return false, err
	}
	offers, told := stat["ksm_mergeable"]
	if !told && len(stat) > 0 { // a thread of the kernel's, or a process that has ended, has no memory
		return false, errors.New("the kernel does not say which processes offer memory (ksm_mergeable in /proc/PID/ksm_stat)")
	}
	return offers == "yes", nil
}

// MergedMemory is how much of a process's memory ksmd has found to equal other pages, in bytes.
func MergedMemory(pid int) (uint64, error) {
	stat, err := ksmStat(pid)
	if err != nil {
		return 0, err
	}
	pages, err := strconv.ParseUint(stat["ksm_merging_pages"], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read merged memory of %d: %w", pid, err)
	}
	return pages * uint64(os.Getpagesize()), nil
}

// ksmStat reads /proc/PID/ksm_stat: some of its lines have a colon after the name.
func ksmStat(pid int) (map[string]string, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "ksm_stat"))
	if err != nil {
		return nil, err
	}
	stat := make(map[string]string)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) == 2 {
			stat[strings.TrimSuffix(fields[0], ":")] = fields[1]
		}
	}
	return stat, nil
}

// KSM reads a setting or figure of ksmd.
func KSM(name string) (string, error) {
	data, err := os.ReadFile(filepath.Join(ksmKnobs, filepath.Base(name)))
	return strings.TrimSpace(string(data)), err
}

// SetKSM changes a setting of ksmd.
func SetKSM(name, value string) error {
	return writeControl(filepath.Join(ksmKnobs, filepath.Base(name)), value)
}

// addrNoRandomize is ADDR_NO_RANDOMIZE of <sys/personality.h>.
const addrNoRandomize = 0x0040000

// WithoutASLR does something on a thread whose children have their memory at the same addresses each time (personality(2)), and theirs.
func WithoutASLR(do func() error) error {
	runtime.LockOSThread()
	was, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	if errno != 0 {
		runtime.UnlockOSThread()
		return os.NewSyscallError("personality", errno)
	}
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, was|addrNoRandomize, 0, 0); errno != 0 {
		runtime.UnlockOSThread()
		return os.NewSyscallError("personality", errno)
	}
	err := do()
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, was, 0, 0); errno != 0 {
		return errors.Join(err, os.NewSyscallError("personality", errno)) // the thread stays locked, and ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}
