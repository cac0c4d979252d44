package bake

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

const (
	// atOnce is how many warm-up requests are under way together: enough to wake a second worker, few enough not to grow the app's
	// pools to a size that no idle instance needs.
	atOnce = 2
	// settleWithin is how long an app may take to close what the warm-up has left.
	settleWithin = 10 * time.Second
	settleEvery  = 10 * time.Millisecond
)

// warmUp asks n times, each time on a connection of its own, and tells how many were answered. One refusal ends it: an app that cannot answer
// the same question twice is not worth an image.
func (p *prober) warmUp(ctx context.Context, n int, answered func(done int)) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	var done atomic.Int64
	for range n {
		group.Go(func() error {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			if err := p.ask(ctx); err != nil {
				return fmt.Errorf("request %d of %d: %w", done.Load()+1, n, err)
			}
			answered(int(done.Add(1)))
			return nil
		})
	}
	return group.Wait()
}

// settle waits until the container's network namespace has no connection but the listeners.
func settle(ctx context.Context, pid int) error {
	deadline := time.NewTimer(settleWithin)
	defer deadline.Stop()
	// The kernel tells nobody outside a socket that it has been closed.
	again := time.NewTicker(settleEvery)
	defer again.Stop()
	for {
		sockets, err := tcpSockets(pid)
		if err != nil {
			return fmt.Errorf("read sockets: %w", err)
		}
		open := unsettled(sockets)
		if open == "" {
			return nil
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-deadline.C:
			return hinted{
				fmt.Errorf("after %s %s", settleWithin, open),
				"an image holds no connection: it would be cut in every instance. Make the app connect later, or close when it is idle",
			}
		}
	}
}
