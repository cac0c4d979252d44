package pages

import (
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
)

// errDamaged is why a frame, manifest or row is refused when there is nothing to say but that its bytes are not those that were written.
var errDamaged = errors.New("it is not as it was written")

// DamageError says that something of the store is not as it was written. It is errdefs.ErrDataLoss.
type DamageError struct {
	// File is the damaged file, by its path below the store, and Offset where in it the damaged frame is, in bytes.
	File   string
	Offset uint64
	// Page is one that cannot be had any more, by its place in a file of an image; empty: not known.
	Page string
	Err  error
}

// Error implements error.
func (e *DamageError) Error() string {
	text := fmt.Sprintf("%s, offset %d: %v", e.File, e.Offset, e.Err)
	if e.Page != "" {
		text = e.Page + ": " + text
	}
	return text
}

// Unwrap gives the cause and errdefs.ErrDataLoss.
func (e *DamageError) Unwrap() []error { return []error{e.Err, errdefs.ErrDataLoss} }

// QuotaError says that an image would have made the store larger than it may be. It is errdefs.ErrResourceExhausted.
type QuotaError struct {
	// Quota and Used are bytes of packs and manifests, Used without the image.
	Quota, Used uint64
}

// Error implements error.
func (e *QuotaError) Error() string {
	return fmt.Sprintf("the page store's quota of %d bytes, %d of them in use, is too small for it", e.Quota, e.Used)
}

// Unwrap gives errdefs.ErrResourceExhausted.
func (e *QuotaError) Unwrap() error { return errdefs.ErrResourceExhausted }
