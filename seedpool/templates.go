package seedpool

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// giveUpTimeout bounds how long a keeper takes to end a template.
const giveUpTimeout = 15 * time.Second

// keepTemplates has templates made that starts have asked for, one after the other, and gives up those that nobody uses any more, until ctx ends.
func (p *Pool) keepTemplates(ctx context.Context) {
	for {
		next, pause := p.nextTemplate(time.Now())
		if next.seed != nil {
			next.do(ctx)
			continue
		}
		var again <-chan time.Time
		if pause > 0 {
			again = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-p.asked:
		case <-again:
		}
	}
}

// templateStep is what is to be done about a seed's template; without a seed nothing is.
type templateStep struct {
	seed *seed
	do   func(ctx context.Context)
}

// nextTemplate is the next step; pause is how long until there may be one, 0: until something changes.
func (p *Pool) nextTemplate(now time.Time) (next templateStep, pause time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	again := func(wait time.Duration) {
		if wait > 0 && (pause == 0 || wait < pause) {
			pause = wait
		}
	}
	idle := time.Duration(p.config.Fork.Idle)
	for _, s := range p.seeds {
		switch {
		case s.fork.stands && !p.config.Fork.Enabled:
			return templateStep{s, func(ctx context.Context) {
				p.giveUp(ctx, s, &api.GiveUpRequest{Template: true}, givenUpIdle, "fork is switched off")
			}}, 0
		case s.fork.stands && idle > 0:
			if p.wantedLocked(s, now) > 0 || len(s.ready)+s.making > 0 {
				s.served = now // for its pool
			}
			left := s.served.Add(idle).Sub(now)
			if left <= 0 {
				return templateStep{s, func(ctx context.Context) {
					p.giveUp(ctx, s, &api.GiveUpRequest{Template: true}, givenUpIdle, fmt.Sprintf("nothing was cloned from it for %s", idle))
				}}, 0
			}
			again(left)
		case s.fork.wanted && !s.retired && s.meta.Info.Phase == SeedReady:
			short, _ := p.memory.wait(now)
			if wait := max(short, s.fork.retryAt.Sub(now)); wait > 0 {
				again(wait)
				continue
			}
			if wait := p.starts.wait(now); wait > 0 {
				again(wait)
				continue
			}
			s.fork.wanted = false
			return templateStep{s, func(ctx context.Context) { p.makeTemplate(ctx, s) }}, 0
		}
	}
	return templateStep{}, pause
}

// wantTemplate has a seed's template made when there is time: a start that was restored could have been a clone.
func (p *Pool) wantTemplate(seedID string) {
	if !p.config.Fork.Enabled {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.seeds[seedID]; s != nil && !s.booted && !s.fork.stands && s.fork.refused == "" {
		s.fork.wanted = true
		p.lookAtTemplates()
	}
}

// templateStands says whether instances can be cloned at once.
func (p *Pool) templateStands(s *seed) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.fork.stands
}

// lookAtTemplates wakes keepTemplates.
func (p *Pool) lookAtTemplates() {
	select {
	case p.asked <- struct{}{}:
	default:
	}
}

// makeTemplate has a seed's template made, for later starts.
func (p *Pool) makeTemplate(ctx context.Context, s *seed) {
	ctx, cancel := context.WithTimeout(ctx, makeTimeout)
	defer cancel()
	err := p.askForTemplate(ctx, s)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		s.served = time.Now()
		p.standsLocked(s)
	case errdefs.IsFailedPrecondition(err):
		p.refusedLocked(s, err)
	case ctx.Err() == nil:
		s.fork.fail(time.Now(), err, time.Duration(p.config.RefillBackoff))
		log.G(ctx).WithError(err).WithField("seed", s.id).Warn("make template")
	}
}

// askForTemplate gives the keeper a snapshot as a spare's: it takes from it what lies below, and writes elsewhere.
func (p *Pool) askForTemplate(ctx context.Context, s *seed) (err error) {
	from, err := p.load(ctx, s)
	if err != nil {
		return err
	}
	id := newID()
	overlay, err := p.rootfs.PrepareSpare(ctx, s.id, id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.rootfs.RemoveSpare(context.WithoutCancel(ctx), id)) }()
	p.point("template begun")
	_, err = from.keeper.MakeTemplate(ctx, &api.MakeRequest{
		Id: id, Images: from.images, Overlay: overlay, Spec: from.spec, StdioKeys: from.meta.StdioKeys, Template: p.templatePlace(s.id),
	})
	return errgrpc.ToNative(err)
}

// Why something was given up, in metrics.
const (
	givenUpIdle     = "idle"
	givenUpPressure = "pressure"
)

// giveUp has a keeper let go of what is only kept for later instances.
func (p *Pool) giveUp(ctx context.Context, s *seed, what *api.GiveUpRequest, reason, detail string) {
	ctx, cancel := context.WithTimeout(ctx, giveUpTimeout)
	defer cancel()
	p.mu.Lock()
	if what.Template {
		s.fork.stands = false // no start is to wait for what is about to go
	}
	if what.Memory {
		s.hot = false
	}
	p.mu.Unlock()
	k, err := p.keepers.find(ctx, s.id)
	if errdefs.IsNotFound(err) {
		return // it went with its keeper
	}
	var had *api.GiveUpResponse
	if err == nil {
		had, err = k.GiveUp(ctx, what)
	}
	if err != nil {
		log.G(ctx).WithError(errgrpc.ToNative(err)).WithField("seed", s.id).Warn("give up memory")
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range []struct {
		had        bool
		kind, word string
	}{{had.Template, EventTemplateGone, "template"}, {had.Memory, EventMemoryGone, "memory"}} {
		if !one.had {
			continue
		}
		if one.word == "template" {
			s.fork.last = fmt.Sprintf("given up at %s: %s", time.Now().Format(time.RFC3339), detail)
		}
		p.events.tell(&api.Event{Kind: one.kind, Namespace: s.namespace, Seed: s.meta.Info.Name, Detail: detail})
		p.metrics.givenUp.WithLabelValues(one.word, reason).Inc()
		log.G(ctx).WithFields(log.Fields{"seed": s.id, "what": one.word, "reason": detail}).Info("give up memory")
	}
}

// giveUpOne gives up, while memory is short, the template that was used least recently, or, if none stands, a seed's copy in memory that no instance shares.
func (p *Pool) giveUpOne(ctx context.Context, short string) {
	if s := p.leastUsed(func(s *seed) bool { return s.fork.stands }); s != nil {
		p.giveUp(ctx, s, &api.GiveUpRequest{Template: true}, givenUpPressure, short)
	} else if s := p.leastUsed(func(s *seed) bool { return s.hot && !p.sharedLocked(s) }); s != nil {
		p.giveUp(ctx, s, &api.GiveUpRequest{Memory: true}, givenUpPressure, short)
	}
}

// leastUsed is, of the seeds that have something, the one that was used least recently; nil: none has. has is called with Pool.mu held.
func (p *Pool) leastUsed(has func(*seed) bool) (least *seed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if has(s) && (least == nil || s.served.Before(least.served)) {
			least = s
		}
	}
	return least
}

// sharedLocked says whether an instance shares the seed's copy in memory. The caller holds Pool.mu.
func (p *Pool) sharedLocked(s *seed) bool {
	for _, i := range p.instances {
		if i.seed == s.id && i.row.Instance.Memory != "" {
			return true
		}
	}
	return false
}
