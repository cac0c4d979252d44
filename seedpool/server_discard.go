package seedpool

import (
	"context"

	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Discard implements api.PoolService. When it has answered, nothing of the instance is left and the container's snapshot is as it was before: the shim may
// start cold on it. An instance that is not known is gone already.
func (s *service) Discard(ctx context.Context, r *api.DiscardRequest) (_ *api.Empty, err error) {
	defer func() { err = toGRPC("discard instance", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	i := s.pool.instance(r.Instance)
	if i == nil {
		return &api.Empty{}, nil
	}
	log.G(ctx).WithFields(log.Fields{"id": i.id, "seed": i.seed, "reason": r.Reason}).Info("discard instance")
	s.pool.noteBadClone(i, r.Reason)
	if err := s.pool.destroyAlone(ctx, i, fateRenew); err != nil {
		return nil, err
	}
	s.pool.stir()
	return &api.Empty{}, nil
}
