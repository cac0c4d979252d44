package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
)

// This file is containerd's face: snapshots.Snapshotter, documented there.

// Stat implements snapshots.Snapshotter.
func (s *Snapshotter) Stat(ctx context.Context, key string) (snapshots.Info, error) {
	if err := checkSeen(key); err != nil {
		return snapshots.Info{}, err
	}
	return s.overlay.Stat(ctx, key)
}

// Update implements snapshots.Snapshotter. LabelSeed stays as it is, whatever info says.
func (s *Snapshotter) Update(ctx context.Context, info snapshots.Info, fieldpaths ...string) (updated snapshots.Info, err error) {
	if err := checkSeen(info.Name); err != nil {
		return snapshots.Info{}, err
	}
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		r, err := readRow(ctx, info.Name)
		if err != nil {
			return err
		}
		info.Labels = maps.Clone(info.Labels)
		if err := withSeed(r.seed())(&info); err != nil {
			return err
		}
		updated, err = storage.UpdateInfo(ctx, info, fieldpaths...)
		return err
	})
	return updated, err
}

// Usage implements snapshots.Snapshotter. A seed's layer is no part of the container's usage, as an image's is not.
func (s *Snapshotter) Usage(ctx context.Context, key string) (snapshots.Usage, error) {
	if err := checkSeen(key); err != nil {
		return snapshots.Usage{}, err
	}
	return s.overlay.Usage(ctx, key)
}

// Mounts implements snapshots.Snapshotter.
func (s *Snapshotter) Mounts(ctx context.Context, key string) ([]mount.Mount, error) {
	if err := checkSeen(key); err != nil {
		return nil, err
	}
	mounts, err := s.overlay.Mounts(ctx, key)
	if err != nil {
		return nil, err
	}
	mounts, _, err = s.layered(ctx, key, mounts)
	return mounts, err
}

// Prepare implements snapshots.Snapshotter.
func (s *Snapshotter) Prepare(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, s.overlay.Prepare, key, parent, opts)
}

// View implements snapshots.Snapshotter.
func (s *Snapshotter) View(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error) {
	return s.create(ctx, s.overlay.View, key, parent, opts)
}

// creator is Prepare or View of the overlay snapshotter.
type creator func(ctx context.Context, key, parent string, opts ...snapshots.Opt) ([]mount.Mount, error)

func (s *Snapshotter) create(ctx context.Context, inner creator, key, parent string, opts []snapshots.Opt) ([]mount.Mount, error) {
	if err := checkSeen(key, parent); err != nil {
		return nil, err
	}
	mounts, err := inner(ctx, key, parent, append(slices.Clone(opts), withSeed(""))...)
	if err != nil {
		return nil, err
	}
	mounts, r, err := s.layered(ctx, key, mounts)
	if err != nil {
		return nil, errors.Join(err, s.drop(ctx, key))
	}
	if r.info.Kind == snapshots.KindActive {
		s.index.add(key, s.upper(r.id), chainOf(r.info.Parent))
	}
	return mounts, nil
}

// Commit implements snapshots.Snapshotter. The size is taken before the transaction, so that a start need not wait while a big layer is counted.
func (s *Snapshotter) Commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	if err := checkSeen(name, key); err != nil {
		return err
	}
	if err := s.commit(ctx, name, key, opts...); err != nil {
		return err
	}
	s.index.drop(key)
	return nil
}

func (s *Snapshotter) commit(ctx context.Context, name, key string, opts ...snapshots.Opt) error {
	var r row
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		r, err = readRow(ctx, key)
		return err
	})
	if err != nil {
		return err
	}
	usage, err := fs.DiskUsage(ctx, s.upper(r.id))
	if err != nil {
		return fmt.Errorf("count snapshot %s: %w", key, err)
	}
	return s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		r, err := readRow(ctx, key)
		if err != nil {
			return err
		}
		_, err = storage.CommitActive(ctx, key, name, snapshots.Usage(usage), append(slices.Clone(opts), withSeed(r.seed()))...)
		return err
	})
}

// Remove implements snapshots.Snapshotter. The directory goes at Cleanup, as with containerd's own overlay plugin; with the last user of a
// retired seed goes the seed.
func (s *Snapshotter) Remove(ctx context.Context, key string) error {
	if err := checkSeen(key); err != nil {
		return err
	}
	var seed string
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		r, err := readRow(ctx, key)
		if err != nil {
			return err
		}
		seed = r.seed()
		_, _, err = storage.Remove(ctx, key)
		return err
	})
	if errdefs.IsFailedPrecondition(err) {
		return errors.Join(err, s.reportBlocked(ctx, key))
	}
	if err != nil {
		return err
	}
	s.index.drop(key)
	if seed == "" {
		return nil
	}
	return s.freeSeed(ctx, seed)
}

// Walk implements snapshots.Snapshotter. Our own rows are left out.
func (s *Snapshotter) Walk(ctx context.Context, fn snapshots.WalkFunc, filters ...string) error {
	called := false
	err := s.overlay.Walk(ctx, func(ctx context.Context, info snapshots.Info) error {
		if own(info.Name) {
			return nil
		}
		called = true
		return fn(ctx, info)
	}, filters...)
	if errdefs.IsNotFound(err) && !called { // a database that never had a row
		return nil
	}
	return err
}

// withSeed makes LabelSeed what this package says, not what the client sent.
func withSeed(seed string) snapshots.Opt {
	return func(info *snapshots.Info) error {
		if seed == "" {
			delete(info.Labels, LabelSeed)
			return nil
		}
		return snapshots.WithLabels(map[string]string{LabelSeed: seed})(info)
	}
}
