package seedpool

import (
	"context"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Adopted implements api.PoolService.
func (s *service) Adopted(ctx context.Context, r *api.AdoptedRequest) (_ *api.Empty, err error) {
	defer func() { err = toGRPC("wait for files of instance", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	i := s.pool.instance(r.Instance)
	if i == nil {
		return nil, fail(errdefs.ErrNotFound, "instance %q is not known", r.Instance)
	}
	if err := s.pool.adopted(ctx, i); err != nil {
		return nil, err
	}
	return &api.Empty{}, nil
}
