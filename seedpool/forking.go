package seedpool

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// forkState is what is known of a seed's template. A keeper that has ended takes the knowledge with it.
type forkState struct {
	// cloned: an instance was.
	cloned bool
	// refused says why no instance will be; empty: nothing is known to stand in the way.
	refused string
}

// word is the state for people.
func (f forkState) word() string {
	switch {
	case f.refused != "":
		return "no"
	case f.cloned:
		return "yes"
	}
	return "not tried"
}

// unforkable says why a seed's instances cannot be cloned; empty: they may.
func (p *Pool) unforkable(s *seed) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return s.fork.refused
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
		s.fork.cloned = true
		return made, nil
	case errdefs.IsFailedPrecondition(err):
		s.fork.refused = err.Error()
		return nil, refuse(ReasonNotForkable, err)
	case errdefs.IsUnavailable(err):
		return nil, refuse(ReasonNoTemplate, err)
	}
	return nil, refuse(ReasonForkFailed, err)
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
