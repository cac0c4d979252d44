package seedpool

import (
	"cmp"
	"context"
	"fmt"
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

// makeRoom sees to it that seeds take no more of the disk than they may when s is one of them: others without a pool are removed, those that sproutd has baked by itself first,
// and then those that were not used for longest. If that would not be enough, none is.
func (p *Pool) makeRoom(ctx context.Context, s *seed) error {
	limit := uint64(p.config.Seeds.Disk)
	if limit == 0 {
		return nil
	}
	p.mu.Lock()
	taken := diskBytes(s.meta)
	var idle []*seed
	for _, other := range p.seeds {
		if other.namespace == s.namespace && other.meta.Info.Name == s.meta.Info.Name {
			continue // it makes room anyway
		}
		taken += diskBytes(other.meta)
		if other.bounds.max == 0 && diskBytes(other.meta) > 0 {
			idle = append(idle, other)
		}
	}
	slices.SortFunc(idle, func(a, b *seed) int {
		if a.meta.Info.Automatic != b.meta.Info.Automatic {
			if a.meta.Info.Automatic {
				return -1
			}
			return 1
		}
		return cmp.Or(a.used.Compare(b.used), cmp.Compare(a.id, b.id))
	})
	p.mu.Unlock()
	all, needed := taken, 0
	for ; taken > limit && needed < len(idle); needed++ {
		taken -= diskBytes(idle[needed].meta)
	}
	if taken > limit {
		return refuse(ReasonDiskFull, fail(errdefs.ErrResourceExhausted, "seeds would take %s of the disk, and may take %s ([seeds] disk in sproutd's configuration): remove some (sprout seed rm), or drain their "+
			"pools: those without spares make room by themselves", sizeText(all), limitText(limit)))
	}
	for _, other := range idle[:needed] {
		log.G(ctx).WithFields(log.Fields{"ns": other.namespace, "seed": other.id, "name": other.meta.Info.Name, "for": s.meta.Info.Name}).Warn("remove seed to make room for another")
		if err := p.removeSeed(ctx, other); err != nil {
			return err
		}
	}
	return nil
}

func sizeText(bytes uint64) string { return fmt.Sprintf("%d MiB", (bytes+1<<20-1)>>20) }

func limitText(bytes uint64) string { return Size(bytes).String() }
