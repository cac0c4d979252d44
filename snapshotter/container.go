package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// Chain says on which image a container's snapshot stands, by the upper directory in its mount: the chain id of the image's unpacked layers, empty
// when the parent is not named by its content (no seed fits then), and whether the upper directory is empty. Otherwise ErrNotOurs.
func (s *Snapshotter) Chain(ctx context.Context, upperdir string) (chainID string, pristine bool, err error) {
	var r row
	err = s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		r, err = s.container(ctx, upperdir)
		return err
	})
	if err != nil {
		return "", false, fmt.Errorf("find snapshot: %w", err)
	}
	pristine, err = empty(s.upper(r.id))
	if err != nil {
		return "", false, fmt.Errorf("read upper directory: %w", err)
	}
	return chainOf(r.info.Parent), pristine, nil
}

// Container is the upper directory of the snapshot that containerd's client has given a container's name, as it does for the container's own, and the chain id
// of the image that it stands on. Both are empty when there is none.
func (s *Snapshotter) Container(namespace, id string) (upperdir, chainID string) {
	found, _ := s.index.named(namespace, id)
	return found.upper, found.chain
}

// Over puts the seed's layer below the container's own upper, which must be empty and not mounted, and gives the options of the overlay mount of the
// three. The container's snapshot then has LabelSeed. Errors: ErrNotOurs, ErrNotEmpty, ErrMisfit; NotFound: there is no such seed, or it is retired.
func (s *Snapshotter) Over(ctx context.Context, seed, upperdir string) ([]string, error) {
	var container row
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) error {
		layer, err := readSeed(ctx, seed)
		if err != nil {
			return err
		}
		if container, err = s.container(ctx, upperdir); err != nil {
			return err
		}
		if err := checkFit(container, layer); err != nil {
			return err
		}
		pristine, err := empty(s.upper(container.id))
		if err != nil {
			return err
		}
		if !pristine {
			return ErrNotEmpty
		}
		if err := likeRoot(s.upper(container.id), s.upper(layer.id)); err != nil {
			return err
		}
		return setLabel(ctx, container.info.Name, LabelSeed, seed)
	})
	if err != nil {
		return nil, fmt.Errorf("put seed %s below: %w", seed, err)
	}
	s.point("over")
	mounts, err := s.Mounts(ctx, container.info.Name)
	if err != nil {
		return nil, err
	}
	return overlayOptions(container.info.Name, mounts)
}

// Mounted gives the options of the overlay mount of a container's snapshot as it is: with the seed's layer, if it has one, and all that was written.
func (s *Snapshotter) Mounted(ctx context.Context, upperdir string) ([]string, error) {
	var container row
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		container, err = s.container(ctx, upperdir)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find snapshot: %w", err)
	}
	mounts, err := s.Mounts(ctx, container.info.Name)
	if err != nil {
		return nil, err
	}
	return overlayOptions(container.info.Name, mounts)
}

// Plain takes the seed's layer away from below a container that has started cold after all, from the mount that containerd made before Adopt or Over.
// No file is touched: the container may be running.
func (s *Snapshotter) Plain(ctx context.Context, upperdir string) error {
	_, err := s.plain(ctx, upperdir)
	return err
}

// Renew makes a container's snapshot as it was before Adopt or Over: over the image alone, the upper empty. Nothing may run on it or have it mounted.
func (s *Snapshotter) Renew(ctx context.Context, upperdir string) error {
	container, err := s.plain(ctx, upperdir)
	if err != nil {
		return err
	}
	s.point("plain")
	upper := s.upper(container.id)
	if err := errors.Join(clearDir(upper), clearDir(s.work(container.id)), s.freshRoot(ctx, container)); err != nil {
		return fmt.Errorf("renew snapshot %s: %w", container.info.Name, err)
	}
	return nil
}

// freshRoot gives the upper the mode and owner that the overlay snapshotter makes it with.
func (s *Snapshotter) freshRoot(ctx context.Context, container row) error {
	if container.info.Parent == "" {
		return nil
	}
	var image row
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		image, err = readRow(ctx, container.info.Parent)
		return err
	})
	if err != nil {
		return err
	}
	if err := likeRoot(s.upper(container.id), s.upper(image.id)); err != nil {
		return err
	}
	return os.Chmod(s.upper(container.id), 0o755)
}

func (s *Snapshotter) plain(ctx context.Context, upperdir string) (row, error) {
	var container row
	err := s.meta.WithTransaction(ctx, true, func(ctx context.Context) (err error) {
		if container, err = s.container(ctx, upperdir); err != nil {
			return err
		}
		return setLabel(ctx, container.info.Name, LabelSeed, "")
	})
	if err != nil {
		return row{}, fmt.Errorf("take seed away: %w", err)
	}
	if seed := container.seed(); seed != "" {
		return container, s.freeSeed(ctx, seed)
	}
	return container, nil
}

// container is the row of containerd's active snapshot with this upper directory.
func (s *Snapshotter) container(ctx context.Context, upperdir string) (row, error) {
	upperdir = filepath.Clean(upperdir)
	key, ok := s.index.key(upperdir)
	if !ok {
		return row{}, fmt.Errorf("%s: %w", upperdir, ErrNotOurs)
	}
	r, err := readRow(ctx, key)
	if errdefs.IsNotFound(err) || err == nil && s.upper(r.id) != upperdir {
		return row{}, fmt.Errorf("%s: %w", upperdir, ErrNotOurs) // removed this moment
	}
	return r, err
}

// checkFit refuses a seed's layer below a container when it would show the container something else than what it was made from.
func checkFit(container, layer row) error {
	name, seed := container.info.Name, seedOf(layer)
	if _, mapped := container.info.Labels[snapshots.LabelSnapshotUIDMapping]; mapped {
		return fmt.Errorf("%s has mapped users: %w", name, ErrMisfit)
	}
	if under := container.seed(); under != "" && under != seed {
		return fmt.Errorf("%s stands on seed %s: %w", name, under, ErrMisfit)
	}
	want, have := chainOf(container.info.Parent), chainOf(layer.info.Parent)
	if want == "" || want != have {
		return fmt.Errorf("%s is made from image layer %q, seed %s from %q: %w", name, want, seed, have, ErrMisfit)
	}
	return nil
}

// empty says whether a directory has nothing in it.
func empty(dir string) (bool, error) {
	file, err := os.Open(dir)
	if err != nil {
		return false, err
	}
	defer file.Close()
	_, err = file.Readdirnames(1)
	if errors.Is(err, io.EOF) {
		return true, nil
	}
	return false, err
}
