package shim

import (
	"context"
	"encoding/json"
	"fmt"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// update changes the resources of the task through runc, which keeps them in its state.
func (t *wokenTask) update(ctx context.Context, r *taskAPI.UpdateTaskRequest) (*ptypes.Empty, error) {
	var resources specs.LinuxResources
	if err := json.Unmarshal(r.Resources.GetValue(), &resources); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("decode resources for task %s: %w", t.id, err))
	}
	t.op.Lock()
	defer t.op.Unlock()
	if at := t.phaseNow(); at == phaseAsleep {
		return nil, errgrpc.ToGRPC(fmt.Errorf("update task %s: it sleeps: %w", t.id, errdefs.ErrFailedPrecondition))
	}
	if err := t.runtime.Update(ctx, t.id, &resources); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("update task %s: %w", t.id, err))
	}
	return &ptypes.Empty{}, nil
}
