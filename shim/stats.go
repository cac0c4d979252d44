package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// Stats tells what a task uses.
func (s *service) Stats(ctx context.Context, r *taskAPI.StatsRequest) (*taskAPI.StatsResponse, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.stats(ctx, r)
	}
	return s.cold.Stats(ctx, r)
}
