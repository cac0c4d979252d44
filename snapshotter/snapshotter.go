package snapshotter

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay/overlayutils"
	bolt "go.etcd.io/bbolt"

	"github.com/sproutrun/sprout/seedpool"
)

// lockWait bounds the wait for the database of a sproutd that has not quite ended.
const lockWait = 10 * time.Second

// Snapshotter is containerd's overlay snapshotter with seeds' layers in it. All methods may be called at the same time.
type Snapshotter struct {
	root    string
	meta    *storage.MetaStore
	overlay snapshots.Snapshotter
	index   *index
	blocked func(chainID string)
	point   func(name string) // called at the points at which a crash is tested
}

var (
	_ snapshots.Snapshotter = (*Snapshotter)(nil)
	_ snapshots.Cleaner     = (*Snapshotter)(nil)
	_ seedpool.Rootfs       = (*Snapshotter)(nil)
)

// New opens the snapshotter below root, which it makes when it does not exist, and finishes or undoes what a crash has cut. It deletes no files:
// leftovers are set aside for Cleanup, so that no container waits for them.
func New(root string) (*Snapshotter, error) {
	return open(root, func(string) {})
}

func open(root string, point func(string)) (*Snapshotter, error) {
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter: %w", err)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return nil, fmt.Errorf("open snapshotter: %w", err)
	}
	meta, err := storage.NewMetaStore(filepath.Join(root, "metadata.db"), func(o *bolt.Options) error {
		o.Timeout = lockWait
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("open snapshotter %s: %w", root, err)
	}
	options := []overlay.Opt{overlay.WithMetaStore(meta), overlay.AsynchronousRemove}
	if mapped, err := overlayutils.SupportsIDMappedMounts(); err == nil && mapped {
		options = append(options, overlay.WithRemapIDs)
	}
	inner, err := overlay.NewSnapshotter(root, options...)
	if err != nil {
		return nil, fmt.Errorf("open snapshotter %s: %w", root, err)
	}
	s := &Snapshotter{root: root, meta: meta, overlay: inner, index: newIndex(), point: point}
	if err := s.recover(context.Background()); err != nil {
		_ = meta.Close()
		return nil, fmt.Errorf("recover snapshotter %s: %w", root, err)
	}
	return s, nil
}

// Close closes the metadata. Mounts that were made from it go on.
func (s *Snapshotter) Close() error { return s.overlay.Close() }

// Cleanup deletes the directories of snapshots that have been removed. containerd calls it after each collection.
func (s *Snapshotter) Cleanup(ctx context.Context) error {
	return s.overlay.(snapshots.Cleaner).Cleanup(ctx)
}

// OnBlocked has fn called with the chain id of an image layer that containerd wanted to remove and could not, because only seeds stand on it.
// fn must not wait: containerd's collector does. OnBlocked is to be called once, before containerd's first call.
func (s *Snapshotter) OnBlocked(fn func(chainID string)) { s.blocked = fn }
