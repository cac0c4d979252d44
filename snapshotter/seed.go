package snapshotter

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// seedOf is the seed whose layer this is.
func seedOf(layer row) string { return strings.TrimPrefix(layer.info.Name, prefixSeed) }

// readSeed is the row of a seed that may be used.
func readSeed(ctx context.Context, seed string) (row, error) {
	r, err := readRow(ctx, seedKey(seed))
	if err != nil {
		return row{}, err
	}
	if r.info.Labels[labelRetired] != "" {
		return row{}, fmt.Errorf("seed %s is retired: %w", seed, errdefs.ErrNotFound)
	}
	return r, nil
}

// RemoveSeed ends a seed's layer: nothing is made on it any more. Containers and spares that stand on it keep it until the last of them is removed,
// otherwise it is gone when RemoveSeed returns. A seed that is not there is no error.
func (s *Snapshotter) RemoveSeed(ctx context.Context, seed string) error {
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		if _, err := readRow(ctx, seedKey(seed)); err != nil {
			return err
		}
		return setLabel(ctx, seedKey(seed), labelRetired, "true")
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove seed %s: %w", seed, err)
	}
	s.point("seed retired")
	return s.freeSeed(ctx, seed)
}

// freeSeed removes a retired seed's layer when nothing stands on it any more. Any other seed stays.
func (s *Snapshotter) freeSeed(ctx context.Context, seed string) error {
	retired := false
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) error { // most are not, and reading does not cost a sync
		r, err := readRow(ctx, seedKey(seed))
		if errdefs.IsNotFound(err) {
			return nil
		}
		retired = r.info.Labels[labelRetired] != ""
		return err
	})
	if err != nil || !retired {
		return err
	}
	var id string
	err = s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		id, err = freeRetired(ctx, seed)
		return err
	})
	if err != nil {
		return fmt.Errorf("free seed %s: %w", seed, err)
	}
	if id == "" {
		return nil
	}
	s.point("seed freed")
	return os.RemoveAll(s.dir(id))
}

// freeRetired removes the row of a retired seed without users and gives its id, or nothing when it has to stay or is gone.
func freeRetired(ctx context.Context, seed string) (string, error) {
	used := false
	err := walkRows(ctx, func(info snapshots.Info) {
		used = used || info.Labels[LabelSeed] == seed || info.Parent == seedKey(seed)
	})
	if err != nil || used {
		return "", err
	}
	id, _, err := storage.Remove(ctx, seedKey(seed))
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	return id, err
}

// List gives the seeds that have a layer and may be used, and the instances that have a spare's snapshot.
func (s *Snapshotter) List(ctx context.Context) (seeds, spares []string, err error) {
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		return walkRows(ctx, func(info snapshots.Info) {
			if seed, ok := strings.CutPrefix(info.Name, prefixSeed); ok && info.Labels[labelRetired] == "" {
				seeds = append(seeds, seed)
			}
			if instance, ok := strings.CutPrefix(info.Name, prefixSpare); ok {
				spares = append(spares, instance)
			}
		})
	})
	if err != nil {
		return nil, nil, fmt.Errorf("list seeds and spares: %w", err)
	}
	return seeds, spares, nil
}

// reportBlocked tells the pool of a layer that only seeds and bakes keep.
func (s *Snapshotter) reportBlocked(ctx context.Context, key string) error {
	chain := chainOf(key)
	if s.blocked == nil || chain == "" {
		return nil
	}
	ours := true
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) error {
		return walkRows(ctx, func(info snapshots.Info) {
			ours = ours && (info.Parent != key || own(info.Name))
		})
	})
	if err == nil && ours {
		s.blocked(chain)
	}
	return err
}
