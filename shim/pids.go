package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// Pids lists the processes of a task.
func (s *service) Pids(ctx context.Context, r *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.pids(ctx, r)
	}
	return s.cold.Pids(ctx, r)
}
