package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// Checkpoint writes an image of a task.
func (s *service) Checkpoint(ctx context.Context, r *taskAPI.CheckpointTaskRequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.checkpoint(ctx, r)
	}
	return s.cold.Checkpoint(ctx, r)
}
