package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// Pause freezes a task.
func (s *service) Pause(ctx context.Context, r *taskAPI.PauseRequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.pause(ctx, r)
	}
	return s.cold.Pause(ctx, r)
}

// Resume lets a paused task go on.
func (s *service) Resume(ctx context.Context, r *taskAPI.ResumeRequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.resume(ctx, r)
	}
	return s.cold.Resume(ctx, r)
}
