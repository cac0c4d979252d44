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

// claim gives a ready spare of a seed to a container. early: the answer does not wait for adopt.
func (p *Pool) claim(ctx context.Context, seedID string, who claimant, early bool) (*api.Instance, error) {
	unlock, err := p.lockContainer(ctx, who.namespace, who.container)
	if err != nil {
		return nil, err
	}
	i, err := p.takeFor(ctx, seedID, who)
	if err == nil {
		err = p.beginAdoption(i, who.upperdir)
	}
	if err != nil {
		unlock()
		return nil, err
	}
	// The container stays locked until its snapshot is no longer being changed.
	p.requests.Go(func() {
		defer unlock()
		p.adopt(i, who.upperdir)
	})
	if early {
		return p.rowOf(i).Instance, nil
	}
	if err := p.adopted(ctx, i); err != nil {
		if derr := p.destroyAlone(ctx, i, fateRenew); derr != nil {
			log.G(ctx).WithError(derr).WithField("id", i.id).Warn("destroy instance")
		}
		return nil, err
	}
	return p.rowOf(i).Instance, nil
}

// takeFor takes a ready spare of a seed for a container that it can have. The caller holds the container's lock.
func (p *Pool) takeFor(ctx context.Context, seedID string, who claimant) (*instance, error) {
	s, err := p.usable(who.namespace, seedID)
	if err != nil {
		return nil, err
	}
	if _, err := p.checkUpper(ctx, who.upperdir); err != nil {
		return nil, err
	}
	return p.take(ctx, s, who)
}

// take takes a ready spare of a seed. The row says so before anything is done to the spare, so two callers never get the same one. A spare that has died is dropped
// and the next one is taken. The caller holds the container's lock.
func (p *Pool) take(ctx context.Context, s *seed, who claimant) (*instance, error) {
	p.abandoned(ctx, who)
	p.starts.disturb(time.Now())
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
		if !waitsFor(ctx) {
			return nil, errors.Join(context.DeadlineExceeded, p.giveBack(i))
		}
		return i, nil
	}
}

// checkUpper returns the image of a container, and refuses one whose snapshot a seed cannot lie under, before a spare is made its own.
func (p *Pool) checkUpper(ctx context.Context, upperdir string) (chain string, err error) {
	chain, pristine, err := p.rootfs.Chain(ctx, upperdir)
	switch {
	case errdefs.IsNotFound(err):
		return "", refuse(ReasonNotOurSnapshotter, err)
	case err == nil && !pristine:
		return "", refuse(ReasonUpperNotEmpty, fail(errdefs.ErrFailedPrecondition, "upper directory %s is not empty", upperdir))
	}
	return chain, err
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

// adoption is the hand-over of a spare's files to a container.
type adoption struct {
	done chan struct{}
	err  error // once done is closed
}

// beginAdoption notes that the container's snapshot may be touched from now on: whoever destroys the instance must know.
func (p *Pool) beginAdoption(i *instance, upperdir string) error {
	err := p.rewrite(i, func(row *api.InstanceRow) { row.Upperdir = upperdir })
	if err != nil {
		p.tasks.Go(func() { p.destroyOrLog(p.life, i, fatePlain) })
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	i.adoption = &adoption{done: make(chan struct{})}
	if s := p.seeds[i.seed]; s != nil {
		s.claimed++
	}
	return nil
}

// adopt makes the spare's files those of the container, and says in i.adoption how it went. It waits for a disk: a shim that wants to may bind the instance in
// the meantime and learn from Bound. The caller holds the container's lock.
func (p *Pool) adopt(i *instance, upperdir string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(p.life), undoTimeout)
	defer cancel()
	a := i.adoption
	defer close(a.done)
	a.err = p.rootfs.Adopt(ctx, i.id, upperdir)
	p.point("spare adopted")
	if a.err == nil {
		a.err = p.rewrite(i, func(row *api.InstanceRow) { row.Adopted = true })
	}
	if errdefs.IsFailedPrecondition(a.err) {
		a.err = refuse(ReasonUpperNotEmpty, a.err)
	}
}

// adopted waits until a claimed instance's files are the container's. One whose adoption was cut by the end of an earlier sproutd never will.
func (p *Pool) adopted(ctx context.Context, i *instance) error {
	p.mu.Lock()
	row, a := i.row, i.adoption
	p.mu.Unlock()
	if row.Restored || row.Adopted {
		return nil
	}
	if a == nil {
		return fail(errdefs.ErrFailedPrecondition, "instance %s: sproutd ended while its files were handed over", i.id)
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return ctx.Err()
	}
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
