package seedpool

import (
	"context"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Reserve implements api.PoolService.
func (s *service) Reserve(ctx context.Context, r *api.ReserveRequest) (_ *api.ReserveResponse, err error) {
	defer func() { err = toGRPC("reserve spare", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	if err := checkContainer(r.Namespace, r.Id); err != nil {
		return nil, err
	}
	if r.Key == nil {
		return nil, fail(errdefs.ErrInvalidArgument, "key is missing")
	}
	i, seed, err := s.pool.reserve(ctx, claimant{namespace: r.Namespace, container: r.Id, shimPID: r.ShimPid}, r.Key)
	if err != nil {
		return nil, err
	}
	return &api.ReserveResponse{Instance: s.pool.rowOf(i).Instance, Seed: seed}, nil
}
