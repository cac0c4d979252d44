package shim

import (
	"context"
	"fmt"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// pause freezes the task through runc, so that `runc state` agrees: with the v1 freezer on a hybrid host, with the v2 one elsewhere.
func (t *wokenTask) pause(ctx context.Context, _ *taskAPI.PauseRequest) (*ptypes.Empty, error) {
	t.op.Lock()
	defer t.op.Unlock()
	if from := t.phaseNow(); from != phaseRunning {
		return nil, errgrpc.ToGRPC(&phaseError{id: t.id, from: from, to: phasePaused})
	}
	t.setPausing(true)
	err := t.runtime.Pause(ctx, t.id)
	if err == nil {
		err = t.move(phasePaused)
	}
	t.setPausing(false)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("pause task %s: %w", t.id, err))
	}
	t.tasks.publish(&eventstypes.TaskPaused{ContainerID: t.id})
	return &ptypes.Empty{}, nil
}

func (t *wokenTask) setPausing(on bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pausing = on
}
