package shim

import (
	"sync"

	shimrunc "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/stdio"
)

// consoles are the terminals of exec'd processes: one epoll loop for the shim, begun with the first exec.
type consoles struct {
	mu   sync.Mutex
	open stdio.Platform // +checklocks:mu
}

func (c *consoles) platform() (stdio.Platform, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open != nil {
		return c.open, nil
	}
	p, err := shimrunc.NewPlatform()
	if err != nil {
		return nil, err
	}
	c.open = p
	return p, nil
}

func (c *consoles) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		return nil
	}
	err := c.open.Close()
	c.open = nil
	return err
}
