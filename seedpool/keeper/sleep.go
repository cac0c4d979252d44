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
	from := time.Now()
	_, err := restore.Dump(ctx, s.config.CRIU, restore.DumpOptions{
		PID: int(i.message.Pid), ImagesDir: r.Images, WorkDir: i.dir, Spec: spec, Rest: rest,
	})
	if errors.Is(err, restore.ErrForeign) || errors.Is(err, restore.ErrOwnNamespaces) {
		err = fmt.Errorf("%w: %w", err, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return nil, err
	}
	resp.Phases = append(resp.Phases, &api.Phase{Name: "dump", Nanoseconds: time.Since(from).Nanoseconds()})
	from = time.Now()
	if resp.Bytes, err = syncAll(r.Images); err != nil {
		return nil, err
	}
	resp.Phases = append(resp.Phases, &api.Phase{Name: "sync", Nanoseconds: time.Since(from).Nanoseconds()})
	return resp, nil
}

// syncAll sees to it that all files of a directory are on disk, and says how much that is.
func syncAll(dir string) (bytes uint64, err error) {
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		info, err := f.Stat()
		if err == nil && !entry.IsDir() {
			bytes += uint64(info.Size())
		}
		return errors.Join(err, f.Sync())
	})
	if err != nil {
		return 0, fmt.Errorf("sync image: %w", err)
	}
	return bytes, nil
}
