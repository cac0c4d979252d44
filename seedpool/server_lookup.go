package seedpool

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Lookup implements api.PoolService.
func (s *service) Lookup(ctx context.Context, r *api.LookupRequest) (_ *api.LookupResponse, err error) {
	defer func() { err = toGRPC("look up seed", err) }()
	if err := checkContainer(r.Namespace, r.Id); err != nil {
		return nil, err
	}
	if r.Key == nil {
		return nil, fail(errdefs.ErrInvalidArgument, "key is missing")
	}
	return s.lookup(ctx, r.Namespace, r.Upperdir, r.Key)
}

// lookup finds the seed for a container's snapshot and spec.
func (s *service) lookup(ctx context.Context, namespace, upperdir string, key *api.Key) (*api.LookupResponse, error) {
	chain, pristine, err := s.pool.rootfs.Chain(ctx, upperdir)
	switch {
	case errdefs.IsNotFound(err):
		return &api.LookupResponse{Reason: string(ReasonNotOurSnapshotter)}, nil
	case err != nil:
		return nil, err
	case !pristine:
		return &api.LookupResponse{Reason: string(ReasonUpperNotEmpty)}, nil
	case chain == "":
		return &api.LookupResponse{Reason: string(ReasonNoSeed)}, nil
	}
	return s.pool.lookup(namespace, chain, key), nil
}

// candidate is a seed of the container's namespace and in what the container differs from it.
type candidate struct {
	seed    *seed
	meta    *api.SeedMeta
	spares  int
	differs []string
	// template: it stands; unforkable says why nothing is cloned from it.
	template   bool
	unforkable string
}

// lookup finds the seed that a container can be started from, or says why there is none.
func (p *Pool) lookup(namespace, chain string, key *api.Key) *api.LookupResponse {
	best := p.nearest(namespace, chain, key)
	switch {
	case best == nil:
		return &api.LookupResponse{Reason: string(ReasonNoSeed)}
	case len(best.differs) > 0:
		return &api.LookupResponse{Reason: string(ReasonKeyDiffers), Nearest: best.meta.Info.Name, Differs: best.differs}
	case best.meta.Info.Phase == SeedBad:
		return &api.LookupResponse{Reason: string(ReasonSeedBad), Detail: best.meta.Info.Name + ": " + best.meta.Info.Reason}
	case best.meta.Info.Phase == SeedStale:
		return &api.LookupResponse{Reason: string(ReasonSeedStale), Detail: best.meta.Info.Name + ": " + best.meta.Info.Reason}
	}
	return &api.LookupResponse{
		Seed: best.meta.Info, Spares: uint32(best.spares),
		Forks: p.config.Fork.Enabled && !isBooted(best.meta.Info), Unforkable: best.unforkable, Template: best.template,
	}
}

// nearest is the candidate that differs least, one that is ready before one that is not, the newest first. A seed of another image is a candidate only when
// nothing but the image differs: it was baked before the image was built again.
func (p *Pool) nearest(namespace, chain string, key *api.Key) *candidate {
	full := proto.CloneOf(key)
	if full.Parts == nil {
		full.Parts = make(map[string]string)
	}
	full.Parts[PartImage] = chain
	p.mu.Lock()
	var all []candidate
	for _, s := range p.seeds {
		if s.meta.Info.Namespace == namespace {
			all = append(all, candidate{seed: s, meta: s.meta, spares: len(s.ready), template: s.fork.stands, unforkable: s.fork.obstacle(time.Now())})
		}
	}
	p.mu.Unlock()
	var fits []candidate
	for _, c := range all {
		for _, part := range hostParts { // that they fit is the seed's phase
			delete(full.Parts, part)
		}
		maps.Copy(full.Parts, hostPartsOf(c.meta))
		c.differs = Match(c.meta.Info, full)
		if len(c.differs) <= 1 || !slices.Contains(c.differs, PartImage) {
			fits = append(fits, c)
		}
	}
	if len(fits) == 0 {
		return nil
	}
	best := slices.MinFunc(fits, func(a, b candidate) int {
		if n := len(a.differs) - len(b.differs); n != 0 {
			return n
		}
		if n := rank(a.meta) - rank(b.meta); n != 0 {
			return n
		}
		return strings.Compare(b.meta.Info.Id, a.meta.Info.Id)
	})
	return &best
}

func rank(m *api.SeedMeta) int {
	if m.Info.Phase == SeedReady {
		return 0
	}
	return 1
}

// hostPartsOf are the parts of a seed's key that describe the machine.
func hostPartsOf(m *api.SeedMeta) map[string]string {
	parts := make(map[string]string)
	for _, part := range hostParts {
		if value, ok := m.Info.Key.Parts[part]; ok {
			parts[part] = value
		}
	}
	return parts
}
