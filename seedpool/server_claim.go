package seedpool

import (
	"context"

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
	who := claimant{r.Namespace, r.Id, r.Upperdir, r.ShimPid}
	var inst *api.Instance
	if r.Reserved != "" {
		inst, err = s.pool.complete(ctx, r.Reserved, who, r.Early)
	} else {
		inst, err = s.pool.claim(ctx, r.Seed, who, r.Early)
	}
	if err != nil {
		return nil, err
	}
	return &api.ClaimResponse{Instance: inst}, nil
}
