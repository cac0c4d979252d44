package seedpool

import (
	"context"
	"errors"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/thaw"
)

// claimant is the container that an instance is wanted for, and the shim that wants it.
type claimant struct {
	namespace, container, upperdir string
	shimPID                        uint32
}

// sign notes the claimant in a row.
func (c claimant) sign(row *api.InstanceRow) {
	row.Namespace, row.Container, row.Upperdir = c.namespace, c.container, c.upperdir
	row.ShimPid = c.shimPID
	row.ClaimedUnixNanoseconds = time.Now().UnixNano()
	if start, err := linux.StartTime(int(c.shimPID)); c.shimPID != 0 && err == nil {
		row.ShimStartTime = start
	}
}

// clearSign takes the claimant off a row.
func clearSign(row *api.InstanceRow) {
	row.Namespace, row.Container, row.Upperdir = "", "", ""
	row.ShimPid, row.ShimStartTime, row.ClaimedUnixNanoseconds = 0, 0, 0
}

// claim gives a ready spare of a seed to a container, with the spare's files as the container's snapshot. The row says so before anything is done to the
// spare, so two callers never get the same one. A spare that has died is dropped and the next one is taken.
func (p *Pool) claim(ctx context.Context, seedID string, who claimant) (*api.Instance, error) {
	unlock, err := p.lockContainer(ctx, who.namespace, who.container)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s, err := p.usable(who.namespace, seedID)
	if err != nil {
		return nil, err
	}
	p.abandoned(ctx, who)
	defer p.stir()
	for died := 0; ; died++ {
		i, err := p.takeReady(s, who)
		if err != nil {
			return nil, err
		}
		if i == nil {
			return nil, noneReady(s, died)
		}
		p.point("spare claimed")
		if err := p.fit(i); err != nil {
			log.G(ctx).WithError(err).WithFields(log.Fields{"seed": s.id, "id": i.id, "reason": ReasonSpareDied}).Warn("drop spare")
			p.tasks.Go(func() { p.destroyOrLog(p.life, i, fatePlain) })
			continue
		}
		if err := p.hand(ctx, i, who); err != nil {
			return nil, err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		s.claimed++
		return i.row.Instance, nil
	}
}

func noneReady(s *seed, died int) error {
	if died > 0 {
		return refuse(ReasonSpareDied, fail(errdefs.ErrNotFound, "seed %s: %d spares had died and no other is ready", s.id, died))
	}
	return refuse(ReasonNoSpare, fail(errdefs.ErrNotFound, "seed %s: no spare is ready", s.id))
}

// takeReady moves the spare that has waited longest from ready to claimed; nil: there is none.
func (p *Pool) takeReady(s *seed, who claimant) (*instance, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(s.ready) == 0 {
		return nil, nil
	}
	i := s.ready[0]
	return i, p.changeLocked(i, phaseClaimed, func(row *api.InstanceRow) {
		who.sign(row)
		row.Upperdir = "" // until Adopt has touched it
	})
}

// fit says whether a spare is what it was: alive, frozen, with a keeper that holds its streams.
func (p *Pool) fit(i *instance) error {
	inst := p.rowOf(i).Instance
	if err := thaw.Ready(linux.Cgroup{Path: inst.Cgroup}, int(inst.Pid), inst.StartTime); err != nil {
		return err
	}
	if k := p.keepers.current(i.seed); k == nil || !k.alive() {
		return errors.New("its keeper has ended")
	}
	return nil
}

// hand makes the spare's files those of the container. When they do not fit each other the spare is as it was and goes back.
func (p *Pool) hand(ctx context.Context, i *instance, who claimant) error {
	if !waitsFor(ctx) {
		return errors.Join(context.DeadlineExceeded, p.giveBack(i))
	}
	// From here on the snapshot may have been touched, and whoever destroys the instance must know.
	if err := p.rewrite(i, func(row *api.InstanceRow) { row.Upperdir = who.upperdir }); err != nil {
		p.destroyOrLog(ctx, i, fatePlain)
		return err
	}
	err := p.rootfs.Adopt(ctx, i.id, who.upperdir)
	p.point("spare adopted")
	switch {
	case errdefs.IsNotFound(err):
		return errors.Join(refuse(ReasonNotOurSnapshotter, err), p.giveBack(i))
	case errdefs.IsFailedPrecondition(err):
		return errors.Join(refuse(ReasonUpperNotEmpty, err), p.giveBack(i))
	case err != nil:
		p.destroyOrLog(ctx, i, fateRenew)
		return err
	case ctx.Err() != nil:
		p.destroyOrLog(ctx, i, fatePlain)
		return ctx.Err()
	}
	return nil
}

// giveBack makes a claimed spare ready again.
func (p *Pool) giveBack(i *instance) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.changeLocked(i, phaseReady, clearSign); err != nil {
		return err
	}
	if s := p.seeds[i.seed]; s != nil {
		s.ready = append([]*instance{i}, s.ready...)
	}
	return nil
}

// abandoned destroys what was claimed earlier for the same container and never bound: its shim gave up waiting for us.
func (p *Pool) abandoned(ctx context.Context, who claimant) {
	p.mu.Lock()
	var left []*instance
	for _, i := range p.instances {
		if i.row.Namespace == who.namespace && i.row.Container == who.container && i.phase() == phaseClaimed {
			left = append(left, i)
		}
	}
	p.mu.Unlock()
	for _, i := range left {
		p.destroyOrLog(ctx, i, fatePlain)
	}
}
