package seedpool

import (
	"context"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Sleep implements api.PoolService.
func (s *service) Sleep(ctx context.Context, r *api.SleepRequest) (_ *api.SleepResponse, err error) {
	defer func() { err = toGRPC("put instance to sleep", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	i := s.pool.instance(r.Instance)
	if i == nil {
		return nil, fail(errdefs.ErrNotFound, "instance %q is not known", r.Instance)
	}
	return s.pool.sleep(ctx, i, r)
}
