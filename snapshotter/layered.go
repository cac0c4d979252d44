package snapshotter

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
)

const optionLower = "lowerdir="

// layered puts the layers of seeds into the mounts that the overlay snapshotter made of a row's ancestors. The rest of the mount stays as it is.
func (s *Snapshotter) layered(ctx context.Context, key string, mounts []mount.Mount) ([]mount.Mount, row, error) {
	var (
		r      row
		ids    []string
		seeded bool
	)
	err := s.meta.WithTransaction(ctx, false, func(ctx context.Context) (err error) {
		if r, err = readRow(ctx, key); err != nil {
			return err
		}
		ids, seeded, err = layers(ctx, r)
		return err
	})
	if err != nil || !seeded {
		return mounts, r, err
	}
	if len(mounts) != 1 {
		return nil, r, fmt.Errorf("layer snapshot %s: %d mounts", key, len(mounts))
	}
	at := slices.IndexFunc(mounts[0].Options, func(o string) bool { return strings.HasPrefix(o, optionLower) })
	if at < 0 { // a seed has an image below it, so this is an overlay mount
		return nil, r, fmt.Errorf("layer snapshot %s: no lower directories in %v", key, mounts[0].Options)
	}
	lower := make([]string, len(ids))
	for i, id := range ids {
		lower[i] = s.upper(id)
	}
	mounts[0].Options[at] = optionLower + strings.Join(lower, ":")
	return mounts, r, nil
}

// overlayOptions is the options of the one overlay mount that a snapshot over an image always is.
func overlayOptions(key string, mounts []mount.Mount) ([]string, error) {
	if len(mounts) != 1 || mounts[0].Type != "overlay" {
		return nil, fmt.Errorf("mount snapshot %s: not one overlay: %v", key, mounts)
	}
	return mounts[0].Options, nil
}
