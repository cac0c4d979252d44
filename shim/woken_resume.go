package shim

import (
	"context"
	"fmt"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// resume undoes pause, and sleep. A task that was not started yet is frozen too, but that is start's to undo.
func (t *wokenTask) resume(ctx context.Context, _ *taskAPI.ResumeRequest) (*ptypes.Empty, error) {
	t.op.Lock()
	defer t.op.Unlock()
	if t.phaseNow() == phaseAsleep {
		_, err := t.wakeUp(ctx)
		return &ptypes.Empty{}, errgrpc.ToGRPC(err)
	}
	if from := t.phaseNow(); from != phasePaused {
		return nil, errgrpc.ToGRPC(&phaseError{id: t.id, from: from, to: phaseRunning})
	}
	if err := t.runtime.Resume(ctx, t.id); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("resume task %s: %w", t.id, err))
	}
	if err := t.move(phaseRunning); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	t.tasks.publish(&eventstypes.TaskResumed{ContainerID: t.id})
	return &ptypes.Empty{}, nil
}
