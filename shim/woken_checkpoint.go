package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/typeurl/v2"
)

// errShared: runc's CRIU can dump neither the store that the memory is a mapping of, nor who serves it.
var errShared = fmt.Errorf("its memory is shared with other instances of its seed; once it has slept (sprout sleep, sprout wake) it has its own, as those have that are "+
	"made with [restore] shared = false in sproutd's configuration: %w", errdefs.ErrFailedPrecondition)

// errCloned: what a clone has mapped of its image's files is in the template's mounts, where runc's CRIU does not find it.
var errCloned = fmt.Errorf("it was cloned from its seed's template; once it has slept (sprout sleep, sprout wake) it is like those that are restored, as all are with "+
	"[fork] enabled = false in sproutd's configuration: %w", errdefs.ErrFailedPrecondition)

// checkpoint dumps the running task through `runc checkpoint`.
func (t *wokenTask) checkpoint(ctx context.Context, r *taskAPI.CheckpointTaskRequest) (*ptypes.Empty, error) {
	var asked options.CheckpointOptions
	if r.Options != nil {
		if err := typeurl.UnmarshalTo(r.Options, &asked); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("decode checkpoint options: %w", err))
		}
	}
	t.op.Lock()
	defer t.op.Unlock()
	if from := t.phaseNow(); from != phaseRunning && from != phasePaused {
		return nil, errgrpc.ToGRPC(&phaseError{id: t.id, from: from, to: phaseStopped})
	}
	if t.now().memory != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint task %s: %w", t.id, errShared))
	}
	if t.now().instance.Cloned {
		return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint task %s: %w", t.id, errCloned))
	}
	if err := t.dump(ctx, r.Path, &asked); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("checkpoint task %s: %w", t.id, err))
	}
	return &ptypes.Empty{}, nil
}

func (t *wokenTask) dump(ctx context.Context, images string, asked *options.CheckpointOptions) error {
	work := asked.WorkPath
	if work == "" {
		work = filepath.Join(t.bundle, "work", "criu-work")
		defer os.RemoveAll(work)
	}
	var actions []runc.CheckpointAction
	if !asked.Exit {
		actions = append(actions, runc.LeaveRunning)
	}
	return t.runtime.Checkpoint(ctx, t.id, &runc.CheckpointOpts{
		WorkDir:                  work,
		ImagePath:                images,
		AllowOpenTCP:             asked.OpenTcp,
		AllowExternalUnixSockets: asked.ExternalUnixSockets,
		AllowTerminal:            asked.Terminal,
		FileLocks:                asked.FileLocks,
		EmptyNamespaces:          asked.EmptyNamespaces,
		ParentPath:               asked.ParentPath,
	}, actions...)
}
