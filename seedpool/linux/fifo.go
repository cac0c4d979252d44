package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MakeFifo makes a named pipe; one that exists is left as it is, anything else in its place is EEXIST.
func MakeFifo(path string, mode os.FileMode) error {
	err := unix.Mkfifo(path, uint32(mode.Perm()))
	if errors.Is(err, unix.EEXIST) {
		if info, statErr := os.Lstat(path); statErr == nil && info.Mode().Type() == os.ModeNamedPipe {
			return nil
		}
	}
	if err != nil {
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
	for {
		fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: path, Err: err}
		}
		return os.NewFile(uintptr(fd), path), nil
	}
}
