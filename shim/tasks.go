package shim

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// tasks answers what sprout's own command line asks of a shim, beside containerd's task service.
type tasks struct{ *service }

// Sleep puts a woken task to sleep.
func (s tasks) Sleep(ctx context.Context, r *api.SleepTaskRequest) (*api.SleepTaskResponse, error) {
	t, err := s.task(r.Id)
	if err != nil {
		return nil, seedpool.ToGRPC("sleep", err)
	}
	resp, err := t.sleep(ctx, r.CloseConnections)
	if err != nil {
		return nil, seedpool.ToGRPC("sleep", err)
	}
	return &api.SleepTaskResponse{Bytes: resp.Bytes, Full: resp.Full, Phases: resp.Phases}, nil
}

// Wake has a sleeping task run again.
func (s tasks) Wake(ctx context.Context, r *api.WakeTaskRequest) (*api.WakeTaskResponse, error) {
	t, err := s.task(r.Id)
	if err != nil {
		return nil, seedpool.ToGRPC("wake", err)
	}
	phases, err := t.wake(ctx)
	if err != nil {
		return nil, seedpool.ToGRPC("wake", err)
	}
	return &api.WakeTaskResponse{Pid: t.pid(), Phases: phases}, nil
}

// task is a woken task; the others cannot sleep.
func (s tasks) task(id string) (*wokenTask, error) {
	if t := s.woken.get(id); t != nil {
		return t, nil
	}
	if s.coldTask(id) != nil {
		return nil, seedpool.Refuse(seedpool.ReasonCold, errdefs.ErrFailedPrecondition, "container %s was started cold", id)
	}
	return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
}
