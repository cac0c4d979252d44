package seedpool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// forkState is what is known of a seed's template. A keeper that has ended takes the knowledge with it.
type forkState struct {
	// stands: instances can be cloned from it.
	stands bool
	// wanted: a start could have been a clone, had it stood.
	wanted bool
	// refused says why there will be none; empty: nothing is known to stand in the way.
	refused string
	// failures in a row of clones, or of the making, that need not happen again, the last one's error, and when it may be tried again.
	failures int
	failed   string
	retryAt  time.Time
	// last is what has become of the template last, for people.
	last string
}

// word is the state for people.
func (f forkState) word() string {
	switch {
	case f.refused != "":
		return "no"
	case f.stands:
		return "yes"
	case f.last != "":
		return "not now"
	}
	return "not tried"
}

// obstacle says why no instance will be cloned now; empty: nothing stands in the way.
func (f forkState) obstacle(now time.Time) string {
	if wait := f.retryAt.Sub(now); f.refused == "" && wait > 0 {
		return fmt.Sprintf("not for %s, after %d failures: %s", wait.Round(time.Second), f.failures, f.failed)
	}
	return f.refused
}

// fail notes a failure that need not happen again.
func (f *forkState) fail(now time.Time, err error, longest time.Duration) {
	f.failures++
	f.failed, f.retryAt = err.Error(), now.Add(backoff(f.failures, firstBackoff, longest))
}

// unforkable says why a seed's instances cannot be cloned now; empty: they may.
func (p *Pool) unforkable(s *seed) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.fork.obstacle(time.Now())
}

func (p *Pool) templatePlace(seedID string) *api.TemplatePlace {
	return &api.TemplatePlace{Dir: filepath.Join(p.paths.TemplatesDir(), seedID), Cgroup: p.templateCgroup(seedID).Path}
}

func (p *Pool) templateCgroup(seedID string) linux.Cgroup {
	return linux.Cgroup{Path: filepath.Join(p.config.CgroupRoot, "templates", seedID)}
}

// fork has the seed's keeper clone an instance. What goes wrong because of the seed, and would again, is noted.
func (p *Pool) fork(ctx context.Context, s *seed, k *keeperConn, r *api.MakeRequest) (*api.MakeResponse, error) {
	r.Template = p.templatePlace(s.id)
	made, err := k.Make(ctx, r)
	r.Template = nil
	err = errgrpc.ToNative(err)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case err == nil:
		p.standsLocked(s)
		return made, nil
	case errdefs.IsFailedPrecondition(err):
		p.refusedLocked(s, err)
		return nil, refuse(ReasonNotForkable, err)
	case errdefs.IsUnavailable(err):
		s.fork.stands = false
		return nil, refuse(ReasonNoTemplate, err)
	case ctx.Err() == nil:
		s.fork.fail(time.Now(), err, time.Duration(p.config.RefillBackoff))
	}
	return nil, refuse(ReasonForkFailed, err)
}

// standsLocked notes that a seed's template stands and was of use. The caller holds Pool.mu.
func (p *Pool) standsLocked(s *seed) {
	if !s.fork.stands {
		s.fork.last = "made at " + time.Now().Format(time.RFC3339)
		p.events.tell(&api.Event{Kind: EventTemplateMade, Namespace: s.namespace, Seed: s.meta.Info.Name})
		p.metrics.templates.WithLabelValues("made").Inc()
	}
	s.fork = forkState{stands: true, last: s.fork.last}
}

// refusedLocked notes that there will be no template as long as the keeper lives. The caller holds Pool.mu.
func (p *Pool) refusedLocked(s *seed, err error) {
	s.fork = forkState{refused: err.Error()}
	p.events.tell(&api.Event{Kind: EventTemplateFailed, Namespace: s.namespace, Seed: s.meta.Info.Name, Detail: err.Error()})
	p.metrics.templates.WithLabelValues("failed").Inc()
}

// noteBadClone notes that a clone could not be made the container that it was cloned for: the next start is not to lose its time in the same way.
func (p *Pool) noteBadClone(i *instance, reason string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.seeds[i.seed]; s != nil && i.row.Restored && i.row.Instance.Cloned {
		s.fork.fail(time.Now(), fmt.Errorf("clone was given back: %s", reason), time.Duration(p.config.RefillBackoff))
	}
}

// forkOrRestore makes a spare: a clone if it can be one.
func (p *Pool) forkOrRestore(ctx context.Context, s *seed, k *keeperConn, r *api.MakeRequest) (*api.MakeResponse, error) {
	if p.config.Fork.Enabled && p.unforkable(s) == "" {
		made, err := p.fork(ctx, s, k, r)
		if err == nil || ctx.Err() != nil {
			return made, err
		}
		log.G(ctx).WithError(err).WithFields(log.Fields{"seed": s.id, "id": r.Id}).Warn("restore spare that was to be cloned")
	}
	return k.make(ctx, r)
}

// make has the keeper make an instance, by restoring it if nothing else was said.
func (k *keeperConn) make(ctx context.Context, r *api.MakeRequest) (*api.MakeResponse, error) {
	made, err := k.Make(ctx, r)
	return made, errgrpc.ToNative(err)
}

// sweepTemplate removes what the keeper of a template has left that was killed. Its holder has ended the template.
func (p *Pool) sweepTemplate(ctx context.Context, seedID string) error {
	ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
	defer cancel()
	place := p.templatePlace(seedID)
	if _, err := os.Lstat(place.Dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(removeCgroup(ctx, linux.Cgroup{Path: place.Cgroup}), os.RemoveAll(place.Dir))
}
