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

// HoldFifo opens a pipe at both ends: while it is held, writers get no EPIPE and readers no end of file.
func HoldFifo(path string) (*os.File, error) {
	return os.OpenFile(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
}

// HoldPipe makes an anonymous pipe and opens it at both ends, once. As long as it is held, others open an end of their own at PipePath.
func HoldPipe() (*os.File, error) {
	var ends [2]int
	if err := unix.Pipe2(ends[:], unix.O_CLOEXEC); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	// Opened like a named one: the kernel tells the two apart by their file system only (fs/pipe.c, fifo_open).
	held, err := HoldFifo(fmt.Sprintf("/proc/self/fd/%d", ends[0]))
	return held, errors.Join(err, unix.Close(ends[0]), unix.Close(ends[1]))
}

// PipePath is where processes that may look into this one open a pipe that it holds.
func PipePath(held *os.File) (string, error) {
	raw, err := held.SyscallConn()
	if err != nil {
		return "", err
	}
	var path string
	// Not Fd, which would make it blocking.
	err = raw.Control(func(fd uintptr) { path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd) })
	return path, err
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

// DrainFifo reads and drops what is in a pipe that was opened with ReadFifo, and does not wait for more.
func DrainFifo(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	buf := make([]byte, 64<<10)
	var failed error
	err = raw.Control(func(fd uintptr) {
		for {
			n, err := unix.Read(int(fd), buf)
			switch {
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN), err == nil && n == 0:
				return
			case err != nil:
				failed = os.NewSyscallError("read", err)
				return
			}
		}
	})
	return errors.Join(err, failed)
}
