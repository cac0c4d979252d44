package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// Kill signals a task or a process that was added to it.
func (s *service) Kill(ctx context.Context, r *taskAPI.KillRequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.kill(ctx, r)
	}
	return s.cold.Kill(ctx, r)
}
