package seedpool

import (
	"context"
	"path"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Restore implements api.PoolService.
func (s *service) Restore(ctx context.Context, r *api.RestoreRequest) (_ *api.RestoreResponse, err error) {
	defer func() { err = toGRPC("restore instance", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	if err := checkContainer(r.Namespace, r.Id); err != nil {
		return nil, err
	}
	if !path.IsAbs(r.Cgroup) || path.Clean(r.Cgroup) != r.Cgroup || r.Cgroup == "/" {
		return nil, fail(errdefs.ErrInvalidArgument, "cgroup %q: want a clean absolute path", r.Cgroup)
	}
	if r.Netns != "" && !path.IsAbs(r.Netns) {
		return nil, fail(errdefs.ErrInvalidArgument, "network namespace %q: want an absolute path", r.Netns)
	}
	made, err := s.pool.restoreFor(ctx, r.Seed, claimant{r.Namespace, r.Id, r.Upperdir, r.ShimPid}, place{r.Cgroup, r.Netns, r.Fork})
	if err != nil {
		return nil, err
	}
	return &api.RestoreResponse{Instance: made.Instance, Phases: made.Phases, Unshared: made.Unshared}, nil
}
