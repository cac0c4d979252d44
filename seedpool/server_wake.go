package seedpool

import (
	"context"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Wake implements api.PoolService.
func (s *service) Wake(ctx context.Context, r *api.WakeRequest) (_ *api.RestoreResponse, err error) {
	defer func() { err = toGRPC("wake instance", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	i := s.pool.instance(r.Instance)
	if i == nil {
		return nil, fail(errdefs.ErrNotFound, "instance %q is not known", r.Instance)
	}
	made, err := s.pool.wakeUp(ctx, i, r)
	if err != nil {
		return nil, err
	}
	return &api.RestoreResponse{Instance: made.Instance, Phases: made.Phases}, nil
}
