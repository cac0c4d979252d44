package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// Connect tells the pids of the shim and of a task.
func (s *service) Connect(ctx context.Context, r *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.connect(ctx, r)
	}
	return s.cold.Connect(ctx, r)
}
