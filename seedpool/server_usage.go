package seedpool

import (
	"context"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Usage implements api.SeedsService.
func (s *service) Usage(ctx context.Context, r *api.UsageRequest) (_ *api.UsageResponse, err error) {
	defer func() { err = toGRPC("measure memory", err) }()
	if err := checkScope(r.Namespace); err != nil {
		return nil, err
	}
	list, err := s.pool.usage(ctx, r.Namespace)
	if err != nil {
		return nil, err
	}
	return &api.UsageResponse{Usages: list}, nil
}
