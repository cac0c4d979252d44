package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
)

// PrepareSpare makes an upper of its own for one instance, over the seed's layer over its image, and gives the options of the overlay mount.
// NotFound: there is no such seed, or it is retired.
func (s *Snapshotter) PrepareSpare(ctx context.Context, seed, instance string) ([]string, error) {
	if err := errors.Join(checkID(seed), checkID(instance)); err != nil {
		return nil, fmt.Errorf("prepare spare: %w", err)
	}
	var layer row
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		layer, err = readSeed(ctx, seed)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("prepare spare %s: %w", instance, err)
	}
	mounts, err := s.overlay.Prepare(ctx, spareKey(instance), seedKey(seed))
	if err != nil {
		return nil, fmt.Errorf("prepare spare %s: %w", instance, err)
	}
	s.point("spare made")
	options, err := overlayOptions(spareKey(instance), mounts)
	if err == nil {
		err = likeRoot(upperOf(options), s.upper(layer.id))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("prepare spare %s: %w", instance, err), s.RemoveSpare(ctx, instance))
	}
	return options, nil
}

// RemoveSpare removes the snapshot of an instance that no container has adopted; its mount must be gone. When there is none it does nothing.
func (s *Snapshotter) RemoveSpare(ctx context.Context, instance string) error {
	var r row
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		r, err = readRow(ctx, spareKey(instance))
		return err
	})
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove spare: %w", err)
	}
	if err := s.drop(ctx, spareKey(instance)); err != nil {
		return fmt.Errorf("remove spare: %w", err)
	}
	return s.freeSeed(ctx, strings.TrimPrefix(r.info.Parent, prefixSeed))
}

// upperOf is the upper directory in the options of an overlay mount.
func upperOf(options []string) string {
	for _, o := range options {
		if upper, ok := strings.CutPrefix(o, "upperdir="); ok {
			return upper
		}
	}
	return ""
}

// likeRoot gives an upper the mode and owner of the layer below it: overlayfs shows the upper's as those of "/".
func likeRoot(upper, layer string) error {
	info, err := os.Stat(layer)
	if err != nil {
		return err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("stat %s: no owner", layer)
	}
	if err := os.Lchown(upper, int(owner.Uid), int(owner.Gid)); err != nil {
		return err
	}
	return os.Chmod(upper, info.Mode())
}
