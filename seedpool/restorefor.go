package seedpool

import (
	"context"
	"time"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// place is where an instance that somebody waits for is to live, and how it is to come there.
type place struct {
	cgroup string
	// Paths of namespaces to join; empty: new ones.
	netns, ipcns, utsns string
	// fork: it is cloned, else it is restored.
	fork bool
}

// restoreFor makes an instance of a seed for one container: in its cgroup, its network namespace and over its own snapshot. After an error nothing of the
// instance is left, and the container's snapshot is as it was. Of many at once some wait for their turn.
func (p *Pool) restoreFor(ctx context.Context, seedID string, who claimant, where place) (*api.MakeResponse, error) {
	p.starts.disturb(time.Now())
	done, err := p.turns.take(ctx, time.Duration(p.config.Pool.WakeWait))
	if err != nil {
		return nil, err
	}
	defer done()
	unlock, err := p.lockContainer(ctx, who.namespace, who.container)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := p.usable(who.namespace, seedID)
	if err != nil {
		return nil, err
	}
	if s.booted {
		return nil, refuse(ReasonPrestart, fail(errdefs.ErrFailedPrecondition, "seed %s has no image", s.id))
	}
	if where.fork && !p.templateStands(s) {
		return nil, refuse(ReasonNoTemplate, fail(errdefs.ErrUnavailable, "seed %s has no template", s.id))
	}
	p.abandoned(ctx, who)
	i, err := p.begin(s.id, func(row *api.InstanceRow) {
		row.Restored = true
		who.sign(row)
	})
	if err != nil {
		return nil, err
	}
	made, err := p.restoreInto(ctx, s, i, who, where)
	if err == nil {
		err = p.change(i, phaseClaimed, func(row *api.InstanceRow) { row.Instance = made.Instance })
	}
	if err == nil {
		err = ctx.Err()
	}
	if err != nil {
		p.destroyOrLog(ctx, i, fateRenew)
		return nil, err
	}
	return made, nil
}

func (p *Pool) restoreInto(ctx context.Context, s *seed, i *instance, who claimant, where place) (*api.MakeResponse, error) {
	overlay, err := p.rootfs.Over(ctx, s.id, who.upperdir)
	switch {
	case errdefs.IsNotFound(err):
		return nil, refuse(ReasonNotOurSnapshotter, err)
	case errdefs.IsFailedPrecondition(err):
		return nil, refuse(ReasonUpperNotEmpty, err)
	case err != nil:
		return nil, err
	}
	p.point("snapshot over seed")
	return p.make(ctx, s, i, overlay, where)
}
