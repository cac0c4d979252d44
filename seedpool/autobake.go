package seedpool

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

const (
	// autoQueue is how many seeds may wait to be baked.
	autoQueue = 32
	// keepUsedEvery is how exactly it is kept when a seed was last used: each change waits for a disk.
	keepUsedEvery = time.Hour
)

// automatic are the seeds that cold starts have asked for. They are not kept: the next cold start asks again.
type automatic struct {
	wake chan struct{}

	mu     sync.Mutex
	queue  []*order                // +checklocks:mu: the first may be being baked
	failed map[string]*api.Rebuild // +checklocks:mu: by namespace and name
}

func newAutomatic() automatic {
	return automatic{wake: make(chan struct{}, 1), failed: make(map[string]*api.Rebuild)}
}

// label names the seed of an order on the node.
func (o *order) label() string { return o.request.Namespace + "/" + o.request.Name }

// next is what is to be baked next; nil: nothing.
func (a *automatic) next() *order {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.queue) == 0 {
		return nil
	}
	return a.queue[0]
}

// add has a seed baked. One that waits already is not added again, one that has failed not before its time.
func (a *automatic) add(o *order, now time.Time) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, other := range a.queue {
		if other.label() == o.label() {
			return nil
		}
	}
	if f := a.failed[o.label()]; f != nil {
		if again := time.Unix(0, f.AgainUnixNanoseconds); now.Before(again) {
			return fail(errdefs.ErrUnavailable, "that has failed %d times, and is not tried before %s: %s", f.Failures, again.Format(time.RFC3339), f.Error)
		}
	}
	if len(a.queue) == autoQueue {
		return fail(errdefs.ErrResourceExhausted, "%d others wait to be baked", len(a.queue))
	}
	a.queue = append(a.queue, o)
	select {
	case a.wake <- struct{}{}:
	default:
	}
	return nil
}

// done takes the first order off the queue, and notes how it went. What has failed long ago is forgotten.
func (a *automatic) done(o *order, err error, now time.Time) *api.Rebuild {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.queue = a.queue[1:]
	f := a.failed[o.label()]
	delete(a.failed, o.label())
	for label, other := range a.failed {
		if now.Sub(time.Unix(0, other.AgainUnixNanoseconds)) > longestRebuildPause {
			delete(a.failed, label)
		}
	}
	if err == nil {
		return nil
	}
	n := f.GetFailures() + 1
	again := now.Add(backoff(int(n), firstRebuildPause, longestRebuildPause))
	a.failed[o.label()] = &api.Rebuild{Failures: n, Error: bakeReport(err), AgainUnixNanoseconds: again.UnixNano()}
	return a.failed[o.label()]
}

// wantSeed has a seed baked, if there is room for it.
func (p *Pool) wantSeed(o *order) error {
	if err := p.roomForSeed(o); err != nil {
		return err
	}
	return p.automatic.add(o, time.Now())
}

// bakeAutomatically bakes the seed of an order, of an instance of its own: never of the container that has asked. Another may have been baked meanwhile that fits, or taken the room.
func (p *Pool) bakeAutomatically(ctx context.Context, o *order) {
	r := o.request
	if p.lookup(r.Namespace, r.ChainId, o.key).Seed != nil {
		p.automatic.done(o, nil, time.Now())
		return
	}
	err := p.roomForSeed(o)
	var done func()
	if err == nil {
		done, err = p.beginBake(r.Namespace, r.Name)
	}
	if err == nil {
		p.noteImage(ctx, r)
		o.tell = func(*api.BakeEvent) {}
		p.events.tell(&api.Event{Kind: EventAutoBaking, Namespace: r.Namespace, Seed: r.Name, Detail: r.Image})
		log.G(ctx).WithFields(log.Fields{"ns": r.Namespace, "seed": r.Name, "image": r.Image}).Info("bake seed of container that was started cold")
		_, err = p.bake(ctx, o)
		done()
	}
	failed := p.automatic.done(o, err, time.Now())
	switch {
	case failed == nil:
		p.metrics.automatic.WithLabelValues("made").Inc()
	case ctx.Err() == nil:
		p.metrics.automatic.WithLabelValues("failed").Inc()
		p.events.tell(&api.Event{Kind: EventAutoFailed, Namespace: r.Namespace, Seed: r.Name, Detail: failed.Error})
		log.G(ctx).WithError(err).WithFields(log.Fields{"ns": r.Namespace, "seed": r.Name, "failures": failed.Failures}).Warn("bake seed of container that was started cold")
	}
}

// keepUsed writes down when seeds were last used, for a sproutd that comes after this one.
func (p *Pool) keepUsed(ctx context.Context) {
	used := make(map[string]int64)
	p.mu.Lock()
	for id, s := range p.seeds {
		if s.used.Sub(s.kept) >= keepUsedEvery {
			used[id], s.kept = s.used.UnixNano(), s.used
		}
	}
	p.mu.Unlock()
	for id, at := range used {
		if err := p.store.editSeed(id, func(info *api.SeedInfo) { info.UsedUnixNanoseconds = at }); err != nil {
			log.G(ctx).WithError(err).WithField("seed", id).Warn("note when seed was used")
		}
	}
}

// dropUnused removes automatic seeds from which nothing was started for long.
func (p *Pool) dropUnused(ctx context.Context, now time.Time) {
	limit := time.Duration(p.config.Seeds.AutoUnused)
	if limit == 0 {
		return
	}
	p.mu.Lock()
	var unused []*seed
	for _, s := range p.seeds {
		if s.meta.Info.Automatic && now.Sub(s.used) > limit {
			unused = append(unused, s)
		}
	}
	p.mu.Unlock()
	for _, s := range unused {
		log.G(ctx).WithFields(log.Fields{"ns": s.namespace, "seed": s.id, "unused": fmt.Sprint(limit)}).Info("remove automatic seed that is not used")
		if err := p.removeSeed(ctx, s); err != nil {
			log.G(ctx).WithError(err).WithField("seed", s.id).Warn("remove automatic seed that is not used")
		}
	}
}
