package seedpool

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/thaw"
)

// firstBackoff is the pause after a first spare could not be made; each further failure doubles it.
const firstBackoff = time.Second

// finishTimeout is how long a spare that is being made may keep a sproutd that ends: half-made it would only have to be removed.
const finishTimeout = 5 * time.Second

// refill makes spares until ctx ends.
func (p *Pool) refill(ctx context.Context) {
	for {
		if extra := p.surplus(time.Now()); len(extra) > 0 {
			p.dropLater(extra)
		}
		s, pause := p.nextToFill(time.Now())
		if s != nil {
			p.tasks.Go(func() { p.fill(ctx, s) })
			continue
		}
		var again <-chan time.Time
		if pause > 0 {
			timer := time.NewTimer(pause)
			defer timer.Stop()
			again = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-p.wake:
		case <-again:
		}
	}
}

// nextToFill picks, of the seeds with the highest priority that lack spares, the one whose pool is emptiest, and counts one spare of it as being made; when all are full, one
// with a spare that is too old. None: pause is how long until a start that is under way is over or a seed that has failed may be tried again; 0: nothing will be wanted until
// something changes.
func (p *Pool) nextToFill(now time.Time) (next *seed, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	making := 0
	for _, s := range p.seeds {
		making += s.making
	}
	if making >= p.config.RefillParallel {
		return nil, 0
	}
	if wait, _ := p.memory.wait(now); wait > 0 {
		return nil, wait
	}
	list, pause := p.lackingLocked(now)
	if len(list) == 0 {
		return nil, pause
	}
	first := slices.MinFunc(list, lacking.compare)
	if first.full() && making > 0 {
		return nil, pause
	}
	if wait := p.starts.wait(now); wait > 0 {
		return nil, wait
	}
	first.making++
	return first.seed, 0
}

// lacking is a seed that may be given a spare now.
type lacking struct {
	*seed
	// share of the spares that it is to have; 1: all, but one is too old.
	share float64
}

func (l lacking) full() bool { return l.share >= 1 }

// compare has the one first that is to be served first.
func (l lacking) compare(o lacking) int {
	if l.full() != o.full() {
		return cmp.Compare(l.share, o.share)
	}
	return cmp.Or(cmp.Compare(o.bounds.priority, l.bounds.priority), cmp.Compare(l.share, o.share))
}

// lackingLocked lists the seeds that may be given a spare now; pause is how long until that changes by itself, 0: it does not. The caller holds Pool.mu.
func (p *Pool) lackingLocked(now time.Time) (list []lacking, pause time.Duration) {
	again := func(wait time.Duration) {
		if wait > 0 && (pause == 0 || wait < pause) {
			pause = wait
		}
	}
	for _, s := range p.seeds {
		have := len(s.ready) + s.making
		want, fewer := s.demand.spares(s.bounds, now, time.Duration(p.config.Pool.HalfLife))
		again(fewer)
		left, ages := s.ageLocked(now, time.Duration(p.config.Pool.MaxAge))
		again(left)
		tooOld := ages && left == 0
		if s.meta.Info.Phase != SeedReady || have > want || have == want && !tooOld {
			continue
		}
		if wait := s.retryAt.Sub(now); wait > 0 {
			again(wait)
			continue
		}
		list = append(list, lacking{s, float64(have) / float64(want)})
	}
	return list, pause
}

// ageLocked is how long until the oldest spare, which is claimed next, is too old; ages: it will be, or is. The caller holds Pool.mu.
func (s *seed) ageLocked(now time.Time, maxAge time.Duration) (left time.Duration, ages bool) {
	if maxAge == 0 || len(s.ready) == 0 {
		return 0, false
	}
	return max(0, madeAt(s.ready[0].id).Add(maxAge).Sub(now)), true
}

// roomLocked says whether one more spare is to be kept: it is missing, or comes in place of one that is too old and goes as surplus. The caller holds Pool.mu.
func (p *Pool) roomLocked(s *seed, now time.Time) bool {
	room := p.wantedLocked(s, now)
	if left, ages := s.ageLocked(now, time.Duration(p.config.Pool.MaxAge)); ages && left == 0 && room > 0 {
		room++
	}
	return len(s.ready) < room
}

// fill makes one spare and puts it into the pool.
func (p *Pool) fill(ctx context.Context, s *seed) {
	defer p.stir()
	making, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(finishTimeout, cancel) })()
	i, err := p.makeSpare(making, s)
	p.mu.Lock()
	s.making--
	keep := false
	if err == nil {
		s.failures, s.lastError = 0, ""
		keep = !s.retired && s.meta.Info.Phase == SeedReady && p.roomLocked(s, time.Now())
		if keep {
			err = p.changeLocked(i, phaseReady, nil)
		}
		if keep && err == nil {
			s.ready = append(s.ready, i)
			if s.meta.Boot.GetMerge() {
				p.merging.stir()
			}
		}
	}
	if err != nil {
		s.failed++
		s.failures++
		s.lastError = err.Error()
		s.retryAt = time.Now().Add(backoff(s.failures, firstBackoff, time.Duration(p.config.RefillBackoff)))
	}
	failures := s.failures
	p.mu.Unlock()
	p.metrics.refilled(keep, err)
	p.point("spare ready")
	if err != nil {
		p.events.tell(&api.Event{Kind: EventSpareFailed, Namespace: s.namespace, Seed: s.meta.Info.Name, Detail: err.Error()})
		log.G(ctx).WithError(err).WithFields(log.Fields{"seed": s.id, "failures": failures}).Warn("make spare")
	}
	if i != nil && (err != nil || !keep) {
		p.destroyOrLog(ctx, i, fatePlain)
	}
}

// backoff is the pause after so many failures in a row.
func backoff(failures int, first, longest time.Duration) time.Duration {
	pause := first
	for range failures - 1 {
		if pause *= 2; pause >= longest {
			return longest
		}
	}
	return min(pause, longest)
}

// makeSpare makes one instance in a cgroup and over a snapshot of its own. It stays in phase making: the caller says what becomes of it, also after an error
// if an instance is returned with it.
func (p *Pool) makeSpare(ctx context.Context, s *seed) (*instance, error) {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout+bootTimeout(p.metaOf(s)))
	defer cancel()
	if err := p.refusal(s); err != nil {
		return nil, err
	}
	i, err := p.begin(s.id, nil)
	if err != nil {
		return nil, err
	}
	overlay, err := p.rootfs.PrepareSpare(ctx, s.id, i.id)
	if err != nil {
		return i, err
	}
	cgroup := p.spareCgroup(i.id)
	if err := cgroup.Create(); err != nil {
		return i, fmt.Errorf("make cgroup: %w", err)
	}
	resp, err := p.make(ctx, s, i, overlay, place{cgroup: cgroup.Path})
	if err != nil {
		return i, err
	}
	// What is booted has answered its probe; what is made from an image has been seen to do so when that was tried. Here it must be what a claim will ask for.
	made := resp.Instance
	if err := thaw.Ready(cgroup, int(made.Pid), made.StartTime); err != nil {
		return i, fail(errdefs.ErrUnavailable, "make instance %s: %w", i.id, err)
	}
	return i, p.record(i, made)
}

// record writes what has been made into the row of an instance that stays in its phase.
func (p *Pool) record(i *instance, made *api.Instance) error {
	return p.rewrite(i, func(row *api.InstanceRow) { row.Instance = made })
}

// setPool says how many spares a seed is to have. What is too many is gone when it returns, what is missing is made later.
func (p *Pool) setPool(ctx context.Context, s *seed, b spareBounds) error {
	extra, err := p.setBounds(s, b)
	if err != nil {
		return err
	}
	p.dropLater(extra)
	for _, i := range extra {
		if phase(p.rowOf(i).Phase) == phaseDying { // else it was claimed this moment
			err = errors.Join(err, p.destroy(ctx, i, fatePlain))
		}
	}
	return err
}

// setBounds changes the pool's row, and gives the spares that are too many.
func (p *Pool) setBounds(s *seed, b spareBounds) (extra []*instance, err error) {
	p.changes.Lock()
	defer p.changes.Unlock()
	if err := p.refusal(s); err != nil && b.max > 0 {
		return nil, err
	}
	if err := p.store.putPool(s.id, b); err != nil {
		return nil, err
	}
	p.mu.Lock()
	retired := s.retired
	s.bounds, s.retryAt, s.failures = b, time.Time{}, 0
	if want := p.wantedLocked(s, time.Now()); len(s.ready) > want {
		extra = append(extra, s.ready[:len(s.ready)-want]...)
	}
	p.mu.Unlock()
	if retired {
		return nil, fail(errdefs.ErrNotFound, "seed %s was removed", s.id)
	}
	p.stir()
	return extra, nil
}

// wantedLocked is how many spares a seed is to have now. The caller holds mu.
func (p *Pool) wantedLocked(s *seed, now time.Time) int {
	want, _ := s.demand.spares(s.bounds, now, time.Duration(p.config.Pool.HalfLife))
	return want
}

// surplus are the spares that demand does not ask for any more, the oldest.
func (p *Pool) surplus(now time.Time) (extra []*instance) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if want := p.wantedLocked(s, now); len(s.ready) > want {
			extra = append(extra, s.ready[:len(s.ready)-want]...)
		}
	}
	return extra
}

// noteDemand counts a start of a seed, whatever the rung: what was not thawed might have been.
func (p *Pool) noteDemand(seedID string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.seeds[seedID]; s != nil {
		s.used = time.Now()
		s.demand.note(s.used, time.Duration(p.config.Pool.HalfLife))
		p.stir()
	}
}

// keeperLost is called when a keeper has ended. Its spares cannot be handed out: nobody holds their streams or would reap them.
func (p *Pool) keeperLost(seedID string) {
	if p.life.Err() != nil {
		return
	}
	p.mu.Lock()
	s := p.seeds[seedID]
	var spares []*instance
	if s != nil {
		spares = append(spares, s.ready...)
		s.keeperPID, s.fork, s.hot = 0, forkState{}, false
		p.events.tell(&api.Event{Kind: EventKeeperEnded, Namespace: s.namespace, Seed: s.meta.Info.Name})
	}
	p.mu.Unlock()
	if err := p.sweepTemplate(p.life, seedID); err != nil {
		log.G(p.life).WithError(err).WithField("seed", seedID).Warn("remove template")
	}
	log.G(p.life).WithFields(log.Fields{"seed": seedID, "spares": len(spares)}).Warn("keeper has ended")
	p.dropLater(spares)
	p.stir()
}
