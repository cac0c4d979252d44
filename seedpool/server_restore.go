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
	for kind, ns := range map[string]string{"network": r.Netns, "IPC": r.Ipcns, "UTS": r.Utsns} {
		if ns != "" && !path.IsAbs(ns) {
			return nil, fail(errdefs.ErrInvalidArgument, "%s namespace %q: want an absolute path", kind, ns)
		}
	}
	where := place{cgroup: r.Cgroup, netns: r.Netns, ipcns: r.Ipcns, utsns: r.Utsns, fork: r.Fork}
	made, err := s.pool.restoreFor(ctx, r.Seed, claimant{r.Namespace, r.Id, r.Upperdir, r.ShimPid}, where)
	if err != nil {
		return nil, err
	}
	return &api.RestoreResponse{Instance: made.Instance, Phases: made.Phases, Unshared: made.Unshared}, nil
}
