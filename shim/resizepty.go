package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// ResizePty changes the size of a terminal.
func (s *service) ResizePty(ctx context.Context, r *taskAPI.ResizePtyRequest) (*ptypes.Empty, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.resizePty(ctx, r)
	}
	return s.cold.ResizePty(ctx, r)
}
