package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// defaultSocketDir is where containerd's own shims put their sockets.
const defaultSocketDir = "/run/containerd/s"

// connectTimeout is how long it may take to connect to a shim. The kernel answers at once, whatever the shim does; but while twenty containers are started on two
// cores this process waits that long for one of them, and must not make a failed start of it.
const connectTimeout = 5 * time.Second

// addressOf is the address that containerd's pkg/shim would give the shim of a group: a hash of containerd's address, the namespace and the group.
func addressOf(socketDir, containerd, namespace, group string) string {
	sum := sha256.Sum256([]byte(filepath.Join(containerd, namespace, group)))
	return fmt.Sprintf("unix://%s/%x", firstOf(socketDir, defaultSocketDir), sum)
}

func socketPath(address string) string { return strings.TrimPrefix(address, "unix://") }

// alive says whether a shim accepts at the address. The socket of a dead one is removed.
func alive(address string) (bool, error) {
	conn, err := net.DialTimeout("unix", socketPath(address), connectTimeout)
	switch {
	case err == nil:
		return true, conn.Close()
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case errors.Is(err, syscall.ECONNREFUSED):
		return false, os.Remove(socketPath(address))
	}
	return false, fmt.Errorf("ask for shim: %w", err)
}

// listen makes the socket of an address. It has its name only once it listens, so that whoever finds it and is refused knows that its shim is dead.
// fs.ErrExist: another process made it first.
func listen(address string) (*os.File, error) {
	path := socketPath(address)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	unnamed := filepath.Join(filepath.Dir(path), ".sprout-"+strconv.Itoa(os.Getpid()))
	if err := os.Remove(unnamed); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: unnamed, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	// Closing it removes the unnamed one; the file below is a second descriptor of the same socket.
	defer l.Close()
	if err := os.Chmod(unnamed, 0o600); err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	file, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	if err := os.Link(unnamed, path); err != nil {
		return nil, errors.Join(fmt.Errorf("make socket: %w", err), file.Close())
	}
	return file, nil
}
