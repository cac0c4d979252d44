package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// Exec adds a process to a task; Start runs it.
func (s *service) Exec(ctx context.Context, r *taskAPI.ExecProcessRequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.exec(ctx, r)
	}
	return s.cold.Exec(ctx, r)
}
