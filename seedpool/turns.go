package seedpool

import (
	"context"
	"runtime"
	"time"

	"github.com/containerd/errdefs"
)

// turns lets so many starts make an instance at a time, in the order in which they have come: a burst of them would else have all of them late.
type turns chan struct{}

// newTurns gives as many turns at a time as are asked for; 0: as many as there are CPUs, which such a start keeps busy.
func newTurns(parallel int) turns {
	if parallel == 0 {
		parallel = runtime.NumCPU()
	}
	return make(turns, parallel)
}

// take waits for a turn, which done ends; not for longer than limit, since a cold start must not come much later for it.
func (t turns) take(ctx context.Context, limit time.Duration) (done func(), err error) {
	done = func() { <-t }
	select {
	case t <- struct{}{}:
		return done, nil
	default:
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case t <- struct{}{}:
		return done, nil
	case <-late.C:
		return nil, refuse(ReasonBusy, fail(errdefs.ErrUnavailable, "%d starts are having instances made, and none was done for %s", cap(t), limit))
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
