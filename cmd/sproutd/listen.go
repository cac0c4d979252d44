package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// listen makes a socket for root alone. What lies at its path is of a sproutd that was killed: ours is the only one, by its lock.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l, err := linux.ListenForOwnUsers(path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	return l, nil
}
