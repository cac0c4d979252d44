package shim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// socketPath is the file behind an address as containerd dials it.
func socketPath(address string) string { return strings.TrimPrefix(address, "unix://") }

// listen makes the socket that an idle shim serves on once it is assigned. As the launcher does, it gives the socket its name only when it listens: whoever finds
// it and is refused knows that its shim is dead. A socket that is there already is left alone; the launcher has removed it if it was dead.
func listen(address string) (*net.UnixListener, error) {
	path := socketPath(address)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	unnamed := filepath.Join(filepath.Dir(path), ".sprout-"+strconv.Itoa(os.Getpid()))
	if err := os.Remove(unnamed); err != nil && !os.IsNotExist(err) {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: unnamed, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer os.Remove(unnamed)
	if err := os.Chmod(unnamed, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make socket: %w", err), l.Close())
	}
	if err := os.Link(unnamed, path); err != nil {
		return nil, errors.Join(fmt.Errorf("make socket: %w", err), l.Close())
	}
	return l, nil
}

func removeSocket(address string) error {
	if err := os.Remove(socketPath(address)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove socket: %w", err)
	}
	return nil
}

// inherited is the socket that the launcher made and handed on.
func inherited(socket *os.File) (*net.UnixListener, error) {
	defer socket.Close()
	l, err := net.FileListener(socket)
	if err != nil {
		return nil, fmt.Errorf("take over socket: %w", err)
	}
	ul, ok := l.(*net.UnixListener)
	if !ok {
		return nil, errors.Join(fmt.Errorf("take over socket: it is a %s socket", l.Addr().Network()), l.Close())
	}
	return ul, nil
}

// doorbell is a listener that says when somebody has come.
type doorbell struct {
	net.Listener
	ring func()
}

// Accept implements net.Listener.
func (d *doorbell) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err == nil {
		d.ring()
	}
	return conn, err
}
