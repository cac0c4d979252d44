package bake

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"syscall"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

var errEnded = errors.New("the app ended")

// exitGrace is how long a failed question waits for the news that the app has died, which is the better explanation.
const exitGrace = 200 * time.Millisecond

// whileAlive runs do under a context that ends when the process does. Then the error says how it ended, whatever do returned.
func whileAlive(ctx context.Context, pidfd *linux.Pidfd, do func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var watcher sync.WaitGroup
	watcher.Go(func() {
		if pidfd.Wait(watching) == nil {
			cancel(errEnded)
		}
	})
	err := do(ctx)
	if err != nil && ctx.Err() == nil {
		select {
		case <-ctx.Done():
		case <-time.After(exitGrace):
		}
	}
	stop()
	watcher.Wait()
	if errors.Is(context.Cause(ctx), errEnded) {
		return ended(pidfd)
	}
	return err
}

// ended describes the end of the app.
func ended(pidfd *linux.Pidfd) error {
	status, known, err := pidfd.ExitStatus()
	known = known && err == nil
	how := errEnded
	switch {
	case known && status.Exited():
		how = fmt.Errorf("%w with status %d", errEnded, status.ExitStatus())
	case known && status.Signaled():
		how = fmt.Errorf("%w by signal %d (%s)", errEnded, int(status.Signal()), status.Signal())
	}
	return hinted{how, exitHint(status, known)}
}

// exitHint tells why an app may have ended while it was baked.
func exitHint(status syscall.WaitStatus, known bool) string {
	switch {
	case known && status.Signaled() && status.Signal() == syscall.SIGKILL:
		return "it was killed: the memory limit of the bake may be too small"
	case known && status.Exited() && (status.ExitStatus() == 126 || status.ExitStatus() == 127):
		return "a command was not found or not executable: check the image's entrypoint"
	default:
		return "while it is baked the app has only lo: what it needs from the network must not be fatal at boot"
	}
}
