package seedpool

import (
	"context"
	"os"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Version implements api.SeedsService. CRIU that does not run is an empty version: the rest of the answer is true without it.
func (s *service) Version(ctx context.Context, _ *api.Empty) (*api.VersionResponse, error) {
	criu, err := s.pool.criu.Version(ctx)
	if err != nil {
		criu = ""
	}
	return &api.VersionResponse{Version: Version, Criu: criu, Pid: int64(os.Getpid())}, nil
}
