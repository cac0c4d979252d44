package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// State tells how a task, or a process that was added to it, is doing.
func (s *service) State(ctx context.Context, r *taskAPI.StateRequest) (*taskAPI.StateResponse, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.state(ctx, r)
	}
	return s.cold.State(ctx, r)
}
