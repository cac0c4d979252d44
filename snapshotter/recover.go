package snapshotter

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/errdefs"
)

// prefixOld names the directories into which recovery puts what has no row.
const prefixOld = "old-"

// recover makes rows and disk agree (see the package comment for what may be found) and fills the index. It deletes rows, never files.
func (s *Snapshotter) recover(ctx context.Context) error {
	return s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		var rows []snapshots.Info
		if err := walkRows(ctx, func(info snapshots.Info) { rows = append(rows, info) }); err != nil {
			return err
		}
		for _, info := range rows {
			if err := s.recoverRow(ctx, info); err != nil {
				return err
			}
		}
		for _, info := range rows { // after the spares, which stand on them
			if info.Labels[labelRetired] == "" {
				continue
			}
			if _, err := freeRetired(ctx, strings.TrimPrefix(info.Name, prefixSeed)); err != nil {
				return err
			}
		}
		return s.setAside(ctx)
	})
}

// recoverRow drops a bake, which nobody is baking any more, and a spare that has been taken, and enters a container's snapshot in the index.
func (s *Snapshotter) recoverRow(ctx context.Context, info snapshots.Info) error {
	r, err := readRow(ctx, info.Name)
	if err != nil {
		return err
	}
	switch {
	case strings.HasPrefix(info.Name, prefixBake):
		_, _, err = storage.Remove(ctx, info.Name)
	case strings.HasPrefix(info.Name, prefixSpare):
		if _, err = os.Lstat(s.upper(r.id)); errors.Is(err, fs.ErrNotExist) {
			_, _, err = storage.Remove(ctx, info.Name)
		}
	case !own(info.Name) && info.Kind == snapshots.KindActive:
		s.index.add(info.Name, s.upper(r.id), chainOf(info.Parent))
	}
	return err
}

// setAside moves directories without a row out of the way: a transaction that was cut has not used up its number, and the next snapshot gets it.
func (s *Snapshotter) setAside(ctx context.Context) error {
	ids, err := storage.IDMap(ctx)
	if err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	entries, err := os.ReadDir(s.dir(""))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		name := entry.Name()
		if _, known := ids[name]; known || strings.HasPrefix(name, prefixOld) {
			continue
		}
		old, err := os.MkdirTemp(s.dir(""), prefixOld)
		if err != nil {
			return err
		}
		if err := os.Rename(s.dir(name), filepath.Join(old, name)); err != nil {
			return err
		}
	}
	return nil
}
