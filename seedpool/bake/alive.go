package bake

import (
	"context"
	"errors"
	"sync"
	"time"
)

var errEnded = errors.New("the app ended")

// exitGrace is how long a failed question waits for the news that the app has died, which is the better explanation, and how long an error waits
// for the app's last output.
const exitGrace = 200 * time.Millisecond

// whileAlive runs do under a context that ends when gone is closed. Then the error is what ended says, whatever do returned.
func whileAlive(ctx context.Context, gone <-chan struct{}, ended func() error, do func(context.Context) error) error {
	doing, cancel := context.WithCancel(ctx)
	defer cancel()
	finished := make(chan error, 1)
	var running sync.WaitGroup
	running.Go(func() { finished <- do(doing) })
	select {
	case <-gone:
		cancel()
		running.Wait()
		return ended()
	case err := <-finished:
		if err != nil && ctx.Err() == nil {
			select {
			case <-gone:
				return ended()
			case <-time.After(exitGrace):
			}
		}
		return err
	}
}

// exitHint tells why an app may have ended while it was baked. The status is that of a shell: 128 and the number for a signal.
func exitHint(status int) string {
	switch status {
	case 128 + 9:
		return "it was killed: the memory limit of the bake may be too small"
	case 126, 127:
		return "a command was not found or not executable: check the image's entrypoint"
	default:
		return "while it is baked the app has only lo: what it needs from the network must not be fatal at boot"
	}
}
