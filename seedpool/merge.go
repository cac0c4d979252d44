package seedpool

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// Spares that were booted one by one have equal pages, and share none. Those of seeds that ask for it offer theirs to ksmd, and when the pools are full we have ksmd
// look through them in one burst: two scans are enough, and then it sleeps again, with the settings that it had. Whoever shares a page with another can find out what is
// in it by the time that a write takes, so all that is merged on a machine belongs to one containerd namespace: a burst is not begun, and ends, when any other process
// offers memory, or when ksmd was at work without us.

// mergeQuiet is how long no spare must have been made before a burst.
const mergeQuiet = 2 * time.Second

// merging is what is known of bursts. The zero value but for wake has seen none.
type merging struct {
	// wake tells that a spare that offers its memory is ready.
	wake chan struct{}

	mu sync.Mutex
	// refused is why the last burst was not made, or was ended; empty: it was made.
	refused string // +checklocks:mu
}

func (m *merging) stir() {
	select {
	case m.wake <- struct{}{}:
	default:
	}
}

func (m *merging) refuse(why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refused = why
}

// checkMerge refuses a bake whose spares could not be merged, or must not be, and what else is for booted spares only.
func (p *Pool) checkMerge(r *api.BakeRequest) error {
	if !r.Merge && !r.Deterministic && !r.Trim {
		return nil
	}
	if r.Mode != ModePrestart {
		return fail(errdefs.ErrInvalidArgument, "merge, deterministic and trim are for mode %s: the instances of a clone seed share memory already ([fork], [restore] in sproutd's configuration)", ModePrestart)
	}
	if !r.Merge {
		return nil
	}
	if err := linux.CanOfferMemory(); err != nil {
		return fail(errdefs.ErrFailedPrecondition, "memory cannot be merged on this machine: %w", err)
	}
	if other := p.mergedElsewhere(r.Namespace); other != nil {
		return fail(errdefs.ErrFailedPrecondition, "memory is merged inside one namespace only, and seed %s of namespace %s is merged: remove that one, or bake without merging", other.Info.Name, other.Info.Namespace)
	}
	return nil
}

// mergedElsewhere is a seed of another namespace that is merged; nil: there is none.
func (p *Pool) mergedElsewhere(namespace string) *api.SeedMeta {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if s.meta.Boot.GetMerge() && s.namespace != namespace {
			return s.meta
		}
	}
	return nil
}

// mergedNamespace is that of the seeds that are merged; empty: there are none any more.
func (p *Pool) mergedNamespace() string {
	if m := p.mergedElsewhere(""); m != nil {
		return m.Info.Namespace
	}
	return ""
}

// mergingLocked says how a seed's memory is merged. The caller holds Pool.mu.
func (p *Pool) mergingLocked(s *seed) string {
	boot := s.meta.Boot
	var words string
	switch {
	case boot.GetMerge() && boot.GetDeterministic():
		words = "merged, and booted alike"
	case boot.GetMerge():
		words = "merged"
	case boot.GetDeterministic():
		return "booted alike, not merged"
	default:
		return ""
	}
	p.merging.mu.Lock()
	defer p.merging.mu.Unlock()
	if p.merging.refused != "" {
		words += "; not now: " + p.merging.refused
	}
	return words
}

// mergeMemory makes a burst whenever the pools of seeds that are merged have become full, until ctx ends.
func (p *Pool) mergeMemory(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.merging.wake:
		}
		if !p.mergeSettled(ctx) {
			return
		}
		saved, err := p.burst(ctx)
		if err != nil {
			p.merging.refuse(err.Error())
			log.G(ctx).WithError(err).Warn("merge memory of spares")
			continue
		}
		p.merging.refuse("")
		p.events.tell(&api.Event{Kind: EventMerged, Namespace: p.mergedNamespace(), Detail: Size(saved).String() + " of memory are shared"})
	}
}

// mergeSettled waits until no spare has been made for a moment. False: ctx has ended.
func (p *Pool) mergeSettled(ctx context.Context) bool {
	quiet := time.NewTimer(mergeQuiet)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-p.merging.wake:
			quiet.Reset(mergeQuiet)
		case <-quiet.C:
			if p.makingSpares() == 0 {
				return true
			}
			quiet.Reset(mergeQuiet)
		}
	}
}
