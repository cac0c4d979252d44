package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// state answers at once, whatever else is under way.
func (t *wokenTask) state(ctx context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	if r.ExecID != "" {
		return t.execState(ctx, r.ExecID)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return &taskAPI.StateResponse{
		ID:         t.id,
		Bundle:     t.bundle,
		Pid:        t.pid(),
		Status:     t.statusLocked(),
		Stdin:      t.asked.Stdin,
		Stdout:     t.asked.Stdout,
		Stderr:     t.asked.Stderr,
		Terminal:   t.asked.Terminal,
		ExitStatus: t.status,
		ExitedAt:   protobuf.ToTimestamp(t.exitedAt),
	}, nil
}

func (t *wokenTask) statusLocked() task.Status {
	if t.pausing {
		return task.Status_PAUSING
	}
	return t.phase.status()
}

func (t *wokenTask) execState(ctx context.Context, execID string) (*taskAPI.StateResponse, error) {
	e, err := t.process(execID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	status, err := t.execStatus(ctx, e)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	asked := e.Stdio()
	return &taskAPI.StateResponse{
		ID:         e.ID(),
		Bundle:     t.bundle,
		Pid:        uint32(e.Pid()),
		Status:     status,
		Stdin:      asked.Stdin,
		Stdout:     asked.Stdout,
		Stderr:     asked.Stderr,
		Terminal:   asked.Terminal,
		ExitStatus: uint32(e.ExitStatus()),
		ExitedAt:   protobuf.ToTimestamp(e.ExitedAt()),
	}, nil
}

// execStatus is the status of an exec'd process: a paused task pauses all its processes.
func (t *wokenTask) execStatus(ctx context.Context, e *execTask) (task.Status, error) {
	t.mu.Lock()
	whole := t.statusLocked()
	t.mu.Unlock()
	if whole == task.Status_PAUSED || whole == task.Status_PAUSING {
		return whole, nil
	}
	name, err := e.Status(ctx)
	if err != nil {
		return task.Status_UNKNOWN, err
	}
	return phase(name).status(), nil
}
