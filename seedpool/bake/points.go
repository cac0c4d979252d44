package bake

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	securejoin "github.com/cyphar/filepath-securejoin"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// makePoints makes what is missing of the late mounts' mount points, as runc does for all that it mounts: an instance's root may be read-only. The app has ended, so
// that it has not seen them.
func (b *bake) makePoints() error {
	late := slices.DeleteFunc(slices.Clone(b.o.Spec.Mounts), func(m specs.Mount) bool { return !isLate(m, b.o.LateMounts) })
	if len(late) == 0 {
		return nil
	}
	root := filepath.Join(b.o.Dir, "rootfs")
	return linux.Enter(nil, func() (err error) {
		if err := linux.PrivateMounts(); err != nil {
			return fmt.Errorf("make mount namespace: %w", err)
		}
		if err := linux.Overlay(root, b.o.Overlay); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, linux.Unmount(root)) }()
		for _, m := range late {
			if err := makePoint(root, m); err != nil {
				return fmt.Errorf("make mount point %s: %w", m.Destination, err)
			}
		}
		return nil
	})
}

func makePoint(root string, m specs.Mount) error {
	source, err := os.Stat(m.Source)
	if errors.Is(err, os.ErrNotExist) {
		return nil // What it is only the instances know.
	}
	if err != nil {
		return err
	}
	// The image's files are not to be trusted: a symlink must not lead out of them.
	point, err := securejoin.SecureJoin(root, m.Destination)
	if err != nil {
		return err
	}
	if _, err := os.Stat(point); err == nil {
		return nil
	}
	return restore.MakePoint(point, source.IsDir(), 0o755)
}
