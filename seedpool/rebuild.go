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
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

const (
	// rebuildEvery is how often seeds are compared with what they should be.
	rebuildEvery = 30 * time.Second
	// untilRest is the pause when the machine has other things to do.
	untilRest = 2 * time.Second
	// The pause after a first rebuild that failed, which each further failure doubles, and the longest.
	firstRebuildPause   = time.Minute
	longestRebuildPause = time.Hour
)

// keepSeeds bakes what nobody waits for, one after the other, until ctx ends: seeds that are not right any more, and those that cold starts have asked for.
func (p *Pool) keepSeeds(ctx context.Context) {
	for {
		now := time.Now()
		p.keepUsed(ctx)
		p.dropUnused(ctx, now)
		again := time.NewTimer(p.bakeNext(ctx, now))
		select {
		case <-ctx.Done():
			again.Stop()
			return
		case <-p.automatic.wake:
		case <-again.C:
		}
	}
}

// bakeNext bakes one seed, if one is due, and says when to look for another, as rebuildNext does.
func (p *Pool) bakeNext(ctx context.Context, now time.Time) (pause time.Duration) {
	if o := p.automatic.next(); o != nil {
		if !p.restful(ctx, now) {
			return untilRest
		}
		p.bakeAutomatically(ctx, o)
		return 0
	}
	if !p.config.Seeds.Rebuild {
		return rebuildEvery
	}
	return p.rebuildNext(ctx, now)
}

// rebuildNext bakes the next seed again that is due, stale ones first, and says when to look for another; 0: at once, it has baked one, or tried to.
func (p *Pool) rebuildNext(ctx context.Context, now time.Time) (pause time.Duration) {
	for _, s := range p.dueForRebuild(now) {
		if !p.restful(ctx, time.Now()) {
			return untilRest
		}
		if p.rebuildIfOutdated(ctx, s) || ctx.Err() != nil {
			return 0
		}
	}
	return rebuildEvery
}

// dueForRebuild are the seeds that may be looked at, stale ones first.
func (p *Pool) dueForRebuild(now time.Time) (due []*seed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if s.meta.Info.Phase != SeedBad && now.UnixNano() >= s.meta.Info.GetRebuild().GetAgainUnixNanoseconds() {
			due = append(due, s)
		}
	}
	phases := make(map[*seed]int, len(due))
	for _, s := range due {
		phases[s] = 1 - rank(s.meta)
	}
	slices.SortFunc(due, func(a, b *seed) int { return cmp.Or(phases[a]-phases[b], cmp.Compare(a.id, b.id)) })
	return due
}

// restful says whether work that nobody waits for may be begun: no start is under way, no spare is being made, and there is memory.
func (p *Pool) restful(ctx context.Context, now time.Time) bool {
	if p.starts.wait(now) > 0 || p.makingSpares() > 0 {
		return false
	}
	m, err := p.memoryState()
	if err != nil {
		log.G(ctx).WithError(err).Warn("look at memory")
		return false
	}
	wait, _ := p.memory.wait(now)
	return p.memory.look(now, m, p.config.Pool) == "" && wait == 0
}

// makingSpares is how many are being made.
func (p *Pool) makingSpares() (making int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		making += s.making
	}
	return making
}

// rebuildIfOutdated bakes a seed again as it was baked if it is stale, or its image is another now, and says whether it has tried.
func (p *Pool) rebuildIfOutdated(ctx context.Context, s *seed) bool {
	m := p.metaOf(s)
	stale := m.Info.Phase == SeedStale
	asked, err := s.dir.request()
	if err != nil && !stale {
		return false // it serves
	}
	var moved bool
	if err == nil {
		asked, moved, err = p.followImage(ctx, asked)
	}
	switch {
	case errdefs.IsUnavailable(err) || errors.Is(err, context.DeadlineExceeded) || err != nil && !stale && !moved:
		log.G(ctx).WithError(err).WithField("seed", s.id).Debug("ask for image") // it is asked again
		return false
	case err == nil && !stale && !moved:
		return false
	}
	why := m.Info.Reason
	if moved {
		why = "its image is another now"
	}
	if err == nil {
		err = p.rebuild(ctx, s, asked, why)
	}
	switch {
	case err == nil || ctx.Err() != nil:
	case errors.Is(err, errNotUnpacked) && !stale:
		return false // nobody has started the new image yet
	case errdefs.IsAborted(err):
		log.G(ctx).WithError(err).WithField("seed", s.id).Info("leave seed to somebody else")
		return false
	default:
		p.rebuildFailed(ctx, s, why, err)
	}
	return true
}

// rebuild bakes the successor of a seed, which takes its name and its pool.
func (p *Pool) rebuild(ctx context.Context, s *seed, r *api.BakeRequest, why string) error {
	o, err := p.order(r)
	if err != nil {
		return err
	}
	done, err := p.beginBake(r.Namespace, r.Name)
	if err != nil {
		return fail(errdefs.ErrAborted, "%w", err)
	}
	defer done()
	o.tell, o.instead = func(*api.BakeEvent) {}, s
	p.noteRebuild(s, func(r *api.Rebuild) { r.Running = true })
	defer p.noteRebuild(s, func(r *api.Rebuild) { r.Running = false })
	p.events.tell(&api.Event{Kind: EventRebuilding, Namespace: r.Namespace, Seed: r.Name, Detail: why})
	log.G(ctx).WithFields(log.Fields{"ns": r.Namespace, "seed": r.Name, "id": s.id, "reason": why}).Info("bake seed again")
	_, err = p.bake(ctx, o)
	if err == nil {
		p.metrics.rebuilds.WithLabelValues("made").Inc()
	}
	return err
}

// rebuildFailed notes that a seed could not be baked again, so that it is not tried all the time, and whoever inspects it sees why.
func (p *Pool) rebuildFailed(ctx context.Context, s *seed, why string, err error) {
	p.metrics.rebuilds.WithLabelValues("failed").Inc()
	text := bakeReport(err)
	kept := p.noteRebuild(s, func(r *api.Rebuild) {
		r.Failures++
		pause := backoff(int(r.Failures), firstRebuildPause, longestRebuildPause)
		r.Error, r.AgainUnixNanoseconds = text, time.Now().Add(pause).UnixNano()
	})
	if err := p.store.editSeed(s.id, func(info *api.SeedInfo) { info.Rebuild = kept }); err != nil {
		log.G(ctx).WithError(err).WithField("seed", s.id).Warn("note rebuild")
	}
	info := p.metaOf(s).Info
	p.events.tell(&api.Event{Kind: EventRebuildFailed, Namespace: info.Namespace, Seed: info.Name, Detail: fmt.Sprintf("%s: %s", why, text)})
	log.G(ctx).WithError(err).WithFields(log.Fields{"ns": info.Namespace, "seed": info.Name, "failures": kept.Failures}).Warn("bake seed again")
}

// bakeReport is why a bake failed, with the app's and CRIU's own words.
func bakeReport(err error) string {
	if failed, ok := errors.AsType[*bake.Error](err); ok {
		return failed.Report()
	}
	return err.Error()
}

// noteRebuild changes what is known of a seed's rebuild, in memory.
func (p *Pool) noteRebuild(s *seed, edit func(*api.Rebuild)) *api.Rebuild {
	p.mu.Lock()
	defer p.mu.Unlock()
	m := proto.CloneOf(s.meta)
	if m.Info.Rebuild == nil {
		m.Info.Rebuild = new(api.Rebuild)
	}
	edit(m.Info.Rebuild)
	s.meta = m
	return m.Info.Rebuild
}
