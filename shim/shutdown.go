package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
)

// Shutdown ends the shim, unless it still has a task or is about to make or remove one: containerd asks after every delete, and a pod has several.
func (s *service) Shutdown(ctx context.Context, r *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	s.mu.Lock()
	busy := s.busy
	s.mu.Unlock()
	if busy > 0 || s.woken.count() > 0 {
		return done, nil
	}
	return s.cold.Shutdown(ctx, r)
}
