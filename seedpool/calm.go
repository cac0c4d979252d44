package seedpool

import (
	"sync"
	"time"
)

const (
	// startTime is how long after its first sign a start is left alone: what is made for later starts would take its cores and its disk.
	startTime = 100 * time.Millisecond
	// calmLimit is the longest that starts one after the other put off what is to be made.
	calmLimit = time.Second
)

// calm says when no start is under way. The zero value is calm.
type calm struct {
	mu    sync.Mutex
	last  time.Time // +checklocks:mu: of the last sign of a start
	since time.Time // +checklocks:mu: of the first sign since something could be made
}

// disturb notes a sign of a start.
func (c *calm) disturb(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = now
	if c.since.IsZero() {
		c.since = now
	}
}

// wait is how long to put off what is not for a start that is under way; 0: it may begin now.
func (c *calm) wait(now time.Time) time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.since.IsZero() {
		return 0
	}
	if left := min(c.last.Add(startTime).Sub(now), c.since.Add(calmLimit).Sub(now)); left > 0 {
		return left
	}
	c.since = time.Time{}
	return 0
}
