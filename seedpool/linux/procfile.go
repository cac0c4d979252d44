package linux

import (
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// readProc reads a file of /proc into buf, which must hold all of it, and returns the part that it fills. A start reads one file per thread: os.ReadFile would ask for the
// size, register with the poller and allocate for each.
func readProc(path string, buf []byte) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(fd)
	for n := 0; n < len(buf); {
		more, err := unix.Read(fd, buf[n:])
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "read", Path: path, Err: err}
		}
		if more == 0 {
			return buf[:n], nil
		}
		n += more
	}
	return nil, &os.PathError{Op: "read", Path: path, Err: io.ErrShortBuffer}
}
