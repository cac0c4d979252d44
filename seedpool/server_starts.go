package seedpool

import (
	"context"
	"slices"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// ListStarts implements api.SeedsService: it reads what the shims have written.
func (s *service) ListStarts(_ context.Context, r *api.ListStartsRequest) (_ *api.ListStartsResponse, err error) {
	defer func() { err = toGRPC("list starts", err) }()
	if err := checkScope(r.Namespace); err != nil {
		return nil, err
	}
	list := &api.ListStartsResponse{}
	err = s.pool.eachStart(r.Namespace, func(_ string, start *api.Start) error {
		if r.Id == "" || start.Id == r.Id {
			list.Starts = append(list.Starts, start)
		}
		return nil
	})
	slices.SortFunc(list.Starts, func(a, b *api.Start) int { return int(a.AtUnixNanoseconds - b.AtUnixNanoseconds) })
	return list, err
}
