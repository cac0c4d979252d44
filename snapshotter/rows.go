package snapshotter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// row is one snapshot as the metadata has it. All functions that make or take one need a transaction in their context.
type row struct {
	id   string // its directory's name
	info snapshots.Info
}

func readRow(ctx context.Context, key string) (row, error) {
	id, info, _, err := storage.GetInfo(ctx, key)
	if err != nil {
		return row{}, fmt.Errorf("read snapshot %s: %w", key, err)
	}
	return row{id: id, info: info}, nil
}

// seed is the seed whose layer lies directly below a container's upper.
func (r row) seed() string { return r.info.Labels[LabelSeed] }

// below is the key of what lies directly below in a mount.
func (r row) below() string {
	if seed := r.seed(); seed != "" {
		return seedKey(seed)
	}
	return r.info.Parent
}

// layers gives the ids of all that lies below r in a mount, uppermost first, and whether that is more than its ancestors.
func layers(ctx context.Context, r row) (ids []string, seeded bool, err error) {
	for key := r.below(); key != ""; key = r.below() {
		seeded = seeded || r.seed() != ""
		if r, err = readRow(ctx, key); err != nil {
			return nil, false, err
		}
		ids = append(ids, r.id)
	}
	return ids, seeded, nil
}

// setLabel sets one label of a row; an empty value takes it off.
func setLabel(ctx context.Context, key, label, value string) error {
	info := snapshots.Info{Name: key, Labels: map[string]string{label: value}}
	if _, err := storage.UpdateInfo(ctx, info, "labels."+label); err != nil {
		return fmt.Errorf("label snapshot %s: %w", key, err)
	}
	return nil
}

// walkRows calls fn for every row, ours too. fn must not change the metadata.
func walkRows(ctx context.Context, fn func(snapshots.Info)) error {
	err := storage.WalkInfo(ctx, func(_ context.Context, info snapshots.Info) error {
		fn(info)
		return nil
	})
	if errdefs.IsNotFound(err) { // a database that never had a row
		return nil
	}
	return err
}

// drop removes one row of ours and then its directory. A row that is gone already is no error.
func (s *Snapshotter) drop(ctx context.Context, key string) error {
	var id string
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		id, _, err = storage.Remove(ctx, key)
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", key, err)
	}
	s.point("row dropped")
	return os.RemoveAll(s.dir(id))
}

func (s *Snapshotter) dir(id string) string   { return filepath.Join(s.root, "snapshots", id) }
func (s *Snapshotter) upper(id string) string { return filepath.Join(s.dir(id), "fs") }
func (s *Snapshotter) work(id string) string  { return filepath.Join(s.dir(id), "work") }
