package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MakeFifo makes a named pipe; one that exists is left as it is.
func MakeFifo(path string, mode os.FileMode) error {
	if err := unix.Mkfifo(path, uint32(mode.Perm())); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("make fifo %s: %w", path, os.NewSyscallError("mkfifo", err))
	}
	return nil
}

// HoldFifo opens a named pipe at both ends: while it is held, writers get no EPIPE and readers no end of file.
func HoldFifo(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// ReadFifo opens the reading end without waiting for a writer.
func ReadFifo(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// WriteFifo opens the writing end; without a reader the error is ENXIO.
func WriteFifo(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_WRONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// InheritFifo opens one end in blocking mode, as a process expects its standard streams. The other end must be held open, or this waits for it.
func InheritFifo(path string, write bool) (*os.File, error) {
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_WRONLY
	}
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}
