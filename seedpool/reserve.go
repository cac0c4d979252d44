package seedpool

import (
	"context"
	"maps"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// reserve takes a spare for a container whose image is not known yet. It is claimed as any other, and goes the same ways, but for its files.
func (p *Pool) reserve(ctx context.Context, who claimant, key *api.Key) (*instance, *api.SeedInfo, error) {
	unlock, err := p.lockContainer(ctx, who.namespace, who.container)
	if err != nil {
		return nil, nil, err
	}
	defer unlock()
	s, info := p.foreseen(who.namespace, key)
	if s == nil {
		return nil, nil, fail(errdefs.ErrNotFound, "not one seed of namespace %s fits", who.namespace)
	}
	i, err := p.take(ctx, s, who)
	return i, info, err
}

// foreseen is the seed of a namespace that a container with this key can be started from if it has the seed's image; nil: there is none, or several.
func (p *Pool) foreseen(namespace string, key *api.Key) (found *seed, info *api.SeedInfo) {
	full := proto.CloneOf(key)
	if full.Parts == nil {
		full.Parts = make(map[string]string)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		meta := s.meta
		if meta.Info.Namespace != namespace || meta.Info.Phase != seedReady {
			continue
		}
		full.Parts[PartImage] = meta.Info.Key.Parts[PartImage]
		maps.Copy(full.Parts, hostPartsOf(meta))
		if len(Match(meta.Info, full)) > 0 {
			continue
		}
		if found != nil {
			return nil, nil
		}
		found, info = s, meta.Info
	}
	return found, info
}

// complete gives a reserved spare to its container, as claim does.
func (p *Pool) complete(ctx context.Context, id string, who claimant, early bool) (*api.Instance, error) {
	return p.give(ctx, who, early, func() (*instance, error) { return p.reserved(ctx, id, who) })
}

// reserved is the instance that a container has from reserve, if it can have it. The caller holds the container's lock.
func (p *Pool) reserved(ctx context.Context, id string, who claimant) (*instance, error) {
	i := p.instance(id)
	if i == nil {
		return nil, refuse(ReasonSpareDied, fail(errdefs.ErrNotFound, "instance %q is not known", id))
	}
	row := p.rowOf(i)
	if phase(row.Phase) != phaseClaimed || row.Namespace != who.namespace || row.Container != who.container || row.Upperdir != "" {
		return nil, fail(errdefs.ErrFailedPrecondition, "instance %s is not reserved for container %s", id, who.container)
	}
	s, err := p.usable(who.namespace, i.seed)
	if err != nil {
		return nil, err
	}
	chain, err := p.checkUpper(ctx, who.upperdir)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	info := s.meta.Info
	p.mu.Unlock()
	if chain != info.Key.Parts[PartImage] {
		return nil, refuse(ReasonKeyDiffers, fail(errdefs.ErrFailedPrecondition, "container %s is not of the image of seed %s", who.container, info.Name))
	}
	return i, nil
}
