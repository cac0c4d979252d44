package bake

import (
	"context"
	"fmt"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// An app is at rest when it has used less than restCPU in each of restFor windows of restEvery. An idle JVM uses 0.1 to 0.3 ms.
	restEvery = 100 * time.Millisecond
	restCPU   = 2 * time.Millisecond
	restFor   = 3
	// restWithin is how long it may take. Apps that never rest are woken as busy as they are.
	restWithin = 10 * time.Second
)

// rest waits until the app has nothing to do: a JVM goes on compiling for a second or two after its last request, and what an image is taken in the middle of is
// done again by every instance that is woken, on the cores that its first request needs.
func rest(ctx context.Context, cgroup linux.Cgroup, within time.Duration) error {
	deadline := time.NewTimer(within)
	defer deadline.Stop()
	window := time.NewTicker(restEvery)
	defer window.Stop()
	used, err := cgroup.CPU()
	for calm := 0; err == nil && calm < restFor; {
		select {
		case <-window.C:
		case <-deadline.C:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		before := used
		used, err = cgroup.CPU()
		if used-before < restCPU {
			calm++
		} else {
			calm = 0
		}
	}
	if err != nil {
		return fmt.Errorf("see whether the app rests: %w", err)
	}
	return nil
}
