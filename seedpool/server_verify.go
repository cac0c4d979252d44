package seedpool

import (
	"context"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// VerifySeed implements api.SeedsService. A seed with problems is marked bad.
func (s *service) VerifySeed(ctx context.Context, r *api.SeedRef) (_ *api.VerifySeedResponse, err error) {
	defer func() { err = toGRPC("verify seed", err) }()
	one, err := s.pool.find(r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	one.load.Lock()
	defer one.load.Unlock()
	files, bytes, problems, err := s.pool.verify(ctx, one)
	if err != nil {
		return nil, err
	}
	if len(problems) > 0 {
		// The answer is the list of problems; the refusal that comes with the marking says the same.
		_ = s.pool.damaged(ctx, one, problems)
	}
	return &api.VerifySeedResponse{Files: files, Bytes: bytes, Problems: problems}, nil
}
