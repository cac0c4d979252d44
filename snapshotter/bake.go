package snapshotter

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

// PrepareBake makes the snapshot on which seed is baked: writable, over the unpacked image whose chain id is chainID. It gives the options of its
// overlay mount. When several containerd namespaces have the image, the one in ctx is taken; with none in ctx, any: the content is the same.
func (s *Snapshotter) PrepareBake(ctx context.Context, seed, chainID string) ([]string, error) {
	if err := checkID(seed); err != nil {
		return nil, fmt.Errorf("prepare bake: %w", err)
	}
	var image string
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if _, _, _, err := storage.GetInfo(ctx, seedKey(seed)); err == nil {
			return fmt.Errorf("seed %s: %w", seed, errdefs.ErrAlreadyExists)
		}
		image, err = findChain(ctx, chainID)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prepare bake: %w", err)
	}
	mounts, err := s.overlay.Prepare(ctx, bakeKey(seed), image)
	if err != nil {
		return nil, fmt.Errorf("prepare bake of seed %s: %w", seed, err)
	}
	options, err := overlayOptions(bakeKey(seed), mounts)
	if err != nil {
		return nil, errors.Join(err, s.AbortBake(ctx, seed))
	}
	return options, nil
}

// findChain is the key of the newest committed layer of containerd's with this chain id.
func findChain(ctx context.Context, chainID string) (string, error) {
	if chainID == "" || chainOf(chainID) != chainID {
		return "", fmt.Errorf("chain id %q: %w", chainID, errdefs.ErrInvalidArgument)
	}
	namespace, bound := namespaces.Namespace(ctx)
	var found snapshots.Info
	err := walkRows(ctx, func(info snapshots.Info) {
		if info.Kind != snapshots.KindCommitted || own(info.Name) || chainOf(info.Name) != chainID {
			return
		}
		if bound && namespaceOf(info.Name) != namespace {
			return
		}
		if found.Name == "" || info.Created.After(found.Created) {
			found = info
		}
	})
	if err != nil {
		return "", fmt.Errorf("find image layer %s: %w", chainID, err)
	}
	if found.Name == "" {
		return "", fmt.Errorf("image layer %s: %w", chainID, errdefs.ErrNotFound)
	}
	return found.Name, nil
}

// CommitSeed makes what was written on a bake's snapshot the read-only layer of the seed, as it is: whiteouts, opaque directories, all of it. The
// bake's container must be gone and its mount with it. The layer is on disk, through a power cut too, when CommitSeed returns.
func (s *Snapshotter) CommitSeed(ctx context.Context, seed string) error {
	var r row
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		r, err = readRow(ctx, bakeKey(seed))
		return err
	})
	if err != nil {
		return fmt.Errorf("commit seed: %w", err)
	}
	if err := syncTree(s.dir(r.id)); err != nil {
		return fmt.Errorf("commit seed %s: %w", seed, err)
	}
	s.point("layer synced")
	if err := s.commit(ctx, seedKey(seed), bakeKey(seed)); err != nil {
		return fmt.Errorf("commit seed %s: %w", seed, err)
	}
	s.point("seed committed")
	return nil
}

// AbortBake removes a bake's snapshot. When there is none it does nothing.
func (s *Snapshotter) AbortBake(ctx context.Context, seed string) error {
	return s.drop(ctx, bakeKey(seed))
}
