package seedpool

import (
	"context"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Collect implements api.SeedsService.
func (s *service) Collect(ctx context.Context, r *api.CollectRequest) (_ *api.CollectResponse, err error) {
	defer func() { err = toGRPC("collect garbage", err) }()
	if err := s.pool.settled(ctx); err != nil {
		return nil, err
	}
	found, err := s.pool.collect(ctx, r.DryRun)
	return &api.CollectResponse{Garbage: found}, err
}
