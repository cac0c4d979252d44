package seedpool

import "context"

// Rootfs is what the pool needs of the snapshotter, which implements it; sproutd puts the two together. Errors are errdefs': NotFound for an upper
// directory of no snapshot and for a seed without a layer, FailedPrecondition for a snapshot that the seed must not lie under.
type Rootfs interface {
	// Chain says what a container's snapshot stands on, by the upper directory in its mount; pristine: the upper directory is empty.
	Chain(ctx context.Context, upperdir string) (chainID string, pristine bool, err error)
	// Container finds the upper directory of the snapshot that has the container's name, and what it stands on; empty: there is none. It is quick.
	Container(namespace, id string) (upperdir, chainID string)

	// PrepareBake makes the snapshot a seed is baked on, over an unpacked image, and gives the options of its overlay mount.
	PrepareBake(ctx context.Context, seed, chainID string) (overlay []string, err error)
	// CommitSeed makes what the bake wrote the seed's layer. The bake's mount must be gone.
	CommitSeed(ctx context.Context, seed string) error
	// AbortBake removes the snapshot of a bake; none is no error.
	AbortBake(ctx context.Context, seed string) error
	// RemoveSeed ends a seed's layer; it stays on disk until the last container on it is removed. None is no error.
	RemoveSeed(ctx context.Context, seed string) error

	// PrepareSpare makes an upper for one instance, over the seed's layer over its image, and gives the options of the overlay mount.
	PrepareSpare(ctx context.Context, seed, instance string) (overlay []string, err error)
	// RemoveSpare removes an instance's snapshot that no container has adopted; none is no error. Its mount must be gone.
	RemoveSpare(ctx context.Context, instance string) error

	// Adopt hands an instance's upper to a container, under the instance's live mount. The container's own upper must be empty.
	Adopt(ctx context.Context, instance, upperdir string) error
	// Over puts the seed's layer below the container's own empty upper and gives the options of the overlay mount.
	Over(ctx context.Context, seed, upperdir string) (overlay []string, err error)
	// Mounted gives the options of the overlay mount of a container that has run, as it is.
	Mounted(ctx context.Context, upperdir string) (overlay []string, err error)
	// Renew undoes Adopt or Over: over the image alone, the upper empty. Nothing may have the snapshot mounted.
	Renew(ctx context.Context, upperdir string) error
	// Plain undoes what Adopt or Over say about the snapshot and touches no file: the container may be running, without the seed's layer.
	Plain(ctx context.Context, upperdir string) error

	// List gives the seeds that have a layer and the instances that have a snapshot.
	List(ctx context.Context) (seeds, spares []string, err error)
}
