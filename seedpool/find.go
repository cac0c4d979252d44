package seedpool

import (
	"context"

	"github.com/containerd/errdefs"
)

// find is a seed of a namespace, by name or id.
func (p *Pool) find(namespace, name string) (*seed, error) {
	if err := checkNamespace(namespace); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var byID *seed
	for _, s := range p.seeds {
		info := s.meta.Info
		if info.Namespace != namespace {
			continue
		}
		if info.Name == name {
			return s, nil
		}
		if s.id == name {
			byID = s
		}
	}
	if byID != nil {
		return byID, nil
	}
	return nil, fail(errdefs.ErrNotFound, "seed %q is not in namespace %s (`sprout seed ls` lists what is)", name, namespace)
}

// usable is the seed of a namespace with this id, if instances may be made from it; else the refusal says why not.
func (p *Pool) usable(namespace, id string) (*seed, error) {
	p.mu.Lock()
	s := p.seeds[id]
	p.mu.Unlock()
	if s == nil || s.namespace != namespace {
		return nil, refuse(ReasonNoSeed, fail(errdefs.ErrNotFound, "seed %q is not in namespace %s", id, namespace))
	}
	return s, p.refusal(s)
}

// refusal says why nothing may be made from a seed; nil: it may.
func (p *Pool) refusal(s *seed) error {
	p.mu.Lock()
	info := s.meta.Info
	p.mu.Unlock()
	switch info.Phase {
	case SeedReady:
		return nil
	case SeedBad:
		return refuse(ReasonSeedBad, fail(errdefs.ErrDataLoss, "seed %s is bad: %s", info.Name, info.Reason))
	default:
		return refuse(ReasonSeedStale, fail(errdefs.ErrFailedPrecondition, "seed %s is stale: %s", info.Name, info.Reason))
	}
}

// lockContainer keeps two requests for one container from crossing: each touches its snapshot.
func (p *Pool) lockContainer(ctx context.Context, namespace, id string) (unlock func(), err error) {
	key := namespace + "/" + id
	mine := make(chan struct{})
	for {
		p.mu.Lock()
		other, taken := p.busy[key]
		if !taken {
			p.busy[key] = mine
		}
		p.mu.Unlock()
		if !taken {
			return func() {
				p.mu.Lock()
				delete(p.busy, key)
				p.mu.Unlock()
				close(mine)
			}, nil
		}
		select {
		case <-other:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
