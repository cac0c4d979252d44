package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// Wait answers when a task, or a process that was added to it, has ended.
func (s *service) Wait(ctx context.Context, r *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.wait(ctx, r)
	}
	return s.cold.Wait(ctx, r)
}
