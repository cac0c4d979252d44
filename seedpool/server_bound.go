package seedpool

import (
	"context"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Bound implements api.PoolService. It may be called again when the answer was lost, and is when the instance was woken.
func (s *service) Bound(ctx context.Context, r *api.BoundRequest) (_ *api.Empty, err error) {
	defer func() { err = toGRPC("note bound instance", err) }()
	s.pool.requests.Add(1)
	defer s.pool.requests.Done()
	p := s.pool
	i := p.instance(r.Instance)
	if i == nil {
		return nil, fail(errdefs.ErrNotFound, "instance %q is not known", r.Instance)
	}
	if err := p.adopted(ctx, i); err != nil {
		return nil, err
	}
	if err := p.bound(i); err != nil {
		return nil, err
	}
	p.point("instance bound")
	if err := p.awake(ctx, i); err != nil {
		return nil, err
	}
	if !p.rowOf(i).Restored {
		// Its processes are in the container's cgroup now. The shim does not wait for the old one to go.
		p.tasks.Go(func() {
			if err := p.spareCgroup(i.id).Remove(); err != nil {
				log.G(p.life).WithError(err).WithField("id", i.id).Warn("remove cgroup of bound spare")
			}
		})
	}
	return &api.Empty{}, nil
}

// instance is an instance by its id; nil: there is no such.
func (p *Pool) instance(id string) *instance {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.instances[id]
}
