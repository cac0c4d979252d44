package seedpool

import (
	"context"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Claim implements api.PoolService.
func (s *service) Claim(ctx context.Context, r *api.ClaimRequest) (_ *api.ClaimResponse, err error) {
	defer func() { err = toGRPC("claim spare", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	if err := checkContainer(r.Namespace, r.Id); err != nil {
		return nil, err
	}
	resp := &api.ClaimResponse{}
	seed := r.Seed
	if r.Key != nil {
		found, err := s.lookup(ctx, r.Namespace, r.Upperdir, r.Key)
		if err != nil {
			return nil, err
		}
		if found.Seed == nil {
			return nil, refuse(Reason(found.Reason), fail(errdefs.ErrNotFound, "no seed fits container %s", r.Id))
		}
		resp.Seed, seed = found.Seed, found.Seed.Id
	}
	resp.Instance, err = s.pool.claim(ctx, seed, claimant{r.Namespace, r.Id, r.Upperdir, r.ShimPid}, r.Early)
	if err != nil {
		return nil, err
	}
	return resp, nil
}
