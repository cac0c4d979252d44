package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Dump writes an instance that runs to disk and leaves it frozen. What is on disk then outlives the machine's power.
func (s *server) Dump(ctx context.Context, r *api.DumpRequest) (_ *api.DumpResponse, err error) {
	defer func() { err = errgrpc.ToGRPC(err) }()
	i, err := s.get(r.Id)
	if err != nil {
		return nil, err
	}
	resp, err := s.dump(ctx, i, r)
	if err != nil {
		return nil, fmt.Errorf("dump instance %s: %w", r.Id, errors.Join(err, linux.Cgroup{Path: r.Cgroup}.Thaw()))
	}
	return resp, nil
}

func (s *server) dump(ctx context.Context, i *instance, r *api.DumpRequest) (*api.DumpResponse, error) {
	spec := new(specs.Spec)
	if err := json.Unmarshal(r.Spec, spec); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	rest := &restore.Rest{Cgroup: linux.Cgroup{Path: r.Cgroup}, Joins: r.Joins}
	copy(rest.Streams[:], r.Streams)
	resp := new(api.DumpResponse)
	step := func(name string, do func() error) error {
		from := time.Now()
		err := do()
		resp.Phases = append(resp.Phases, &api.Phase{Name: name, Nanoseconds: time.Since(from).Nanoseconds()})
		return err
	}
	// What CRIU writes is not synced: most of it is dropped while it is only in memory.
	whole := r.Images + ".whole"
	err := step("dump", func() error {
		_, err := restore.Dump(ctx, s.config.CRIU, restore.DumpOptions{
			PID: int(i.message.Pid), ImagesDir: whole, WorkDir: i.dir, Spec: spec, Memory: i.memory, Cloned: i.cloned, Rest: rest,
		})
		return err
	})
	if errors.Is(err, restore.ErrForeign) || errors.Is(err, restore.ErrOwnNamespaces) || errors.Is(err, restore.ErrWatches) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err == nil {
		resp.Full, err = sizeOf(whole)
	}
	if err != nil {
		return nil, err
	}
	if err := step("delta", func() error { return s.settle(whole, r) }); err != nil {
		return nil, err
	}
	resp.Bytes, err = sizeOf(r.Images)
	return resp, errors.Join(err, step("sync", func() error { return syncAll(r.Images) }))
}

// settle puts the image where it is asked for: without what its base has as well, if it can be had so.
func (s *server) settle(whole string, r *api.DumpRequest) error {
	image := whole
	if r.Base != "" {
		delta := r.Images + ".delta"
		if err := restore.Subtract(whole, r.Base, delta); err == nil {
			image = delta
		} else {
			log.L.WithError(err).WithFields(log.Fields{"id": r.Id, "seed": s.config.Seed}).Warn("keep whole image of sleeping instance")
			if err := errors.Join(os.RemoveAll(delta), os.RemoveAll(r.Base)); err != nil {
				return err
			}
		}
	}
	return errors.Join(os.Rename(image, r.Images), os.RemoveAll(whole))
}

// sizeOf is what an image takes beside its base.
func sizeOf(dir string) (bytes uint64, err error) {
	list, err := os.ReadDir(dir)
	if err != nil {
		return 0, err
	}
	for _, entry := range list {
		info, err := entry.Info()
		if err != nil {
			return 0, err
		}
		if !entry.IsDir() {
			bytes += uint64(info.Size())
		}
	}
	return bytes, nil
}

// syncAll sees to it that all files of a directory are on disk.
func syncAll(dir string) error {
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(f.Sync(), f.Close())
	})
	if err != nil {
		return fmt.Errorf("sync image: %w", err)
	}
	return nil
}
