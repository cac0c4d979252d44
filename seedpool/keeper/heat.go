package keeper

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool/restore"
)

// heat is the seed's hot image, which is made once, when the first instance is to share it, and the guard of those who do. It is there until it is given up, or the keeper ends.
type heat struct {
	guard guard
	once  sync.Once
	// made is closed when image or err is known.
	made  chan struct{}
	image *restore.Hot
	err   error
}

func newHeat() *heat { return &heat{made: make(chan struct{})} }

// stands says whether instances can share the image.
func (h *heat) stands() bool {
	select {
	case <-h.made:
		return h.err == nil
	default:
		return false
	}
}

// end lets go of an image that stands and that no instance has.
func (h *heat) end() {
	h.guard.dismiss()
	if err := h.image.Close(); err != nil {
		log.L.WithError(err).Error("let go of the seed's memory")
	}
}

// errHeating means that the hot image is still being made.
var errHeating = errors.New("the seed's memory is still being read")

// get is the hot image of a seed whose images are in a directory. It does not wait for it if atOnce.
func (h *heat) get(ctx context.Context, seed, imagesDir string, atOnce bool) (*restore.Hot, error) {
	h.once.Do(func() { go h.make(seed, imagesDir) })
	if atOnce {
		select {
		case <-h.made:
		default:
			return nil, errHeating
		}
	}
	select {
	case <-h.made:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return h.image, errors.Join(h.err, h.guard.broken())
}

// make is not repeated when it fails: all instances of this keeper then have memory of their own.
func (h *heat) make(seed, imagesDir string) {
	from := time.Now()
	if h.image, h.err = restore.NewHot(imagesDir); h.err == nil {
		h.err = h.guard.start()
	}
	close(h.made)
	entry := log.L.WithFields(log.Fields{"seed": seed, "ms": time.Since(from).Milliseconds()})
	if h.err != nil {
		entry.WithError(h.err).Warn("instances do not share their memory")
		return
	}
	entry.WithField("bytes", h.image.Bytes()).Info("instances share their memory")
}
