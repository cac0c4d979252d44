package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"github.com/containerd/containerd/v2/core/snapshots/storage"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Adopt makes the upper of a spare that of a container, while the spare's overlay mount is live: the mount goes on as it is, and what is written
// through it is in the container's snapshot. upperdir is the container's own upper, which must be empty and not mounted; afterwards its path is that
// of the upper taken over. The container's snapshot then has LabelSeed, and the spare's snapshot is gone.
// After ErrNotOurs, ErrNotEmpty and ErrMisfit the spare may serve another container; after any other error it is to be discarded.
func (s *Snapshotter) Adopt(ctx context.Context, instance, upperdir string) error {
	var spare row
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		if spare, err = readRow(ctx, spareKey(instance)); err != nil {
			return err
		}
		layer, err := readRow(ctx, spare.info.Parent)
		if err != nil {
			return err
		}
		container, err := s.container(ctx, upperdir)
		if err != nil {
			return err
		}
		if err := checkFit(container, layer); err != nil {
			return err
		}
		if _, _, err := storage.Remove(ctx, spareKey(instance)); err != nil {
			return err
		}
		if err := setLabel(ctx, container.info.Name, LabelSeed, seedOf(layer)); err != nil {
			return err
		}
		s.point("adopting")
		return s.take(spare.id, container.id)
	})
	if err != nil {
		return fmt.Errorf("adopt spare %s: %w", instance, err)
	}
	s.point("adopted")
	return os.RemoveAll(s.dir(spare.id))
}

// take moves fs and work of one snapshot's directory into another's. fs goes first: a spare without it is known as taken. Each takes
// the place of an empty directory in one step: the container's snapshot lacks neither at any moment, and the emptiness needs no other check.
func (s *Snapshotter) take(from, to string) error {
	err := linux.Replace(s.upper(from), s.upper(to))
	if errors.Is(err, syscall.ENOTEMPTY) || errors.Is(err, syscall.EEXIST) {
		return ErrNotEmpty
	}
	if err != nil {
		return err
	}
	s.point("fs moved")
	if err := clearDir(s.work(to)); err != nil { // an earlier mount left its own directory in it
		return err
	}
	if err := linux.Replace(s.work(from), s.work(to)); err != nil {
		return err
	}
	s.point("work moved")
	return nil
}

// clearDir removes all that is in a directory.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}
