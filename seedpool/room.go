package seedpool

import (
	"cmp"
	"context"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// diskBytes is what a seed's directory and layer take. Its memory in the page store counts there.
func diskBytes(m *api.SeedMeta) uint64 {
	if m.Paged {
		return m.Info.RootfsBytes
	}
	return m.Info.ImageBytes + m.Info.RootfsBytes
}

// idleSeed is a seed without a pool, and what it takes.
type idleSeed struct {
	*seed
	bytes uint64
}

// makeRoom sees to it that seeds take no more of the disk than they may when s is one of them: others without a pool are removed, those that sproutd has baked by itself first,
// and then those that were not used for longest. If that would not be enough, none is.
func (p *Pool) makeRoom(ctx context.Context, s *seed) error {
	limit := uint64(p.config.Seeds.Disk)
	if limit == 0 {
		return nil
	}
	all, idle := p.onDisk(s)
	taken, needed := all, 0
	for ; taken > limit && needed < len(idle); needed++ {
		taken -= idle[needed].bytes
	}
	if taken > limit {
		return refuse(ReasonDiskFull, fail(errdefs.ErrResourceExhausted, "seeds would take %d MiB of the disk, and may take %s ([seeds] disk in sproutd's configuration): remove some (sprout seed rm), "+
			"or drain their pools: those without spares make room by themselves", all>>20, Size(limit)))
	}
	for _, other := range idle[:needed] {
		log.G(ctx).WithFields(log.Fields{"ns": other.namespace, "seed": other.id, "for": s.id}).Warn("remove seed to make room for another")
		if err := p.removeSeed(ctx, other.seed); err != nil {
			return err
		}
	}
	return nil
}

// onDisk is what all seeds take when s is one of them, and those of the others that may go, in their order. One with the name of s goes anyway.
func (p *Pool) onDisk(s *seed) (taken uint64, idle []idleSeed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	taken = diskBytes(s.meta)
	rank := make(map[*seed]int)
	for _, other := range p.seeds {
		if other.namespace == s.namespace && other.meta.Info.Name == s.meta.Info.Name {
			continue
		}
		bytes := diskBytes(other.meta)
		taken += bytes
		if other.bounds.max > 0 || bytes == 0 {
			continue
		}
		idle = append(idle, idleSeed{other, bytes})
		if !other.meta.Info.Automatic {
			rank[other] = 1
		}
	}
	slices.SortFunc(idle, func(a, b idleSeed) int {
		return cmp.Or(rank[a.seed]-rank[b.seed], a.used.Compare(b.used), cmp.Compare(a.id, b.id))
	})
	return taken, idle
}
