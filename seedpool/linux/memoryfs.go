package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MemoryFS is a file system in memory that is mounted nowhere, whose pages are never reclaimed or swapped out, and that can be made read-only for good. It
// is there as long as it, or a file of it, is open or mapped. Linux 6.4 (noswap).
type MemoryFS struct{ root *os.File }

// NewMemoryFS makes one. What is written to it is charged to the cgroup of who writes.
func NewMemoryFS() (_ *MemoryFS, err error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen tmpfs", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fsfd)) }()
	// A mapping of a hole that is only read takes a page, too: no limit may be met then.
	for _, option := range []string{"noswap", "huge=never", "size=0", "nr_inodes=0", "mode=0700"} {
		if err := configure(fsfd, option); err != nil {
			return nil, os.NewSyscallError("fsconfig "+option, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, os.NewSyscallError("fsconfig create", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	return &MemoryFS{os.NewFile(uintptr(fd), "memory")}, nil
}

// Close lets go of it.
func (m *MemoryFS) Close() error { return m.root.Close() }

// Path leads to its root, or to a file in it, in this process only and until Close.
func (m *MemoryFS) Path(elem ...string) string {
	return filepath.Join(append([]string{fmt.Sprintf("/proc/self/fd/%d", m.root.Fd())}, elem...)...)
}

// Seal makes the whole file system read-only, for whoever has a file of it open or mapped, too. No file may be open for writing.
func (m *MemoryFS) Seal() (err error) {
	fsfd, err := unix.Fspick(int(m.root.Fd()), "", unix.FSPICK_CLOEXEC|unix.FSPICK_EMPTY_PATH)
	if err != nil {
		return os.NewSyscallError("fspick", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fsfd)) }()
	if err := configure(fsfd, "ro"); err != nil {
		return os.NewSyscallError("fsconfig ro", err)
	}
	return os.NewSyscallError("fsconfig reconfigure", unix.FsconfigReconfigure(fsfd))
}
