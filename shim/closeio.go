package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// CloseIO closes the standard input of a task or of a process that was added to it.
func (s *service) CloseIO(ctx context.Context, r *taskAPI.CloseIORequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.closeIO(ctx, r)
	}
	return s.cold.CloseIO(ctx, r)
}
