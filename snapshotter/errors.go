package snapshotter

import (
	"fmt"

	"github.com/containerd/errdefs"
)

var (
	// ErrNotOurs says that no active snapshot of containerd's has this upper directory: the container is not on this snapshotter, or is gone.
	ErrNotOurs = fmt.Errorf("upper directory is of no snapshot: %w", errdefs.ErrNotFound)

	// ErrNotEmpty says that the container's upper directory has files already: it must start cold.
	ErrNotEmpty = fmt.Errorf("upper directory is not empty: %w", errdefs.ErrFailedPrecondition)

	// ErrMisfit says that the seed's layer must not lie below this container: baked on another image, another seed lies there
	// already, or the container's files are mapped to other users. It must start cold.
	ErrMisfit = fmt.Errorf("seed does not fit: %w", errdefs.ErrFailedPrecondition)
)
