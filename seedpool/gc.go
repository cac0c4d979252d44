package seedpool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// sweep is one look for what belongs to nobody: it is part of recovery, and made now and then while sproutd serves. So each step lists first and asks for the owner
// afterwards: a row is there before what it owns, and gone after it. A seed that is being baked has no row: it is young, until it has one.
type sweep struct {
	pool *Pool
	// dry: nothing is removed.
	dry   bool
	found []*api.Garbage
}

// remove notes what belongs to nobody, and removes it unless it is only to be shown.
func (g *sweep) remove(kind, id string, do func() error) error {
	g.found = append(g.found, &api.Garbage{Kind: kind, Id: id})
	if g.dry {
		return nil
	}
	return do()
}

// sweepStep is one kind of things that may be left.
type sweepStep struct {
	what string
	do   func(context.Context) error
}

// steps are all but those that recovery does elsewhere in its order.
func (g *sweep) steps() []sweepStep {
	return []sweepStep{
		{"remove cgroups", g.cgroups},
		{"remove instance directories", g.instanceDirs},
		{"remove sleeping instances", g.sleeping},
		{"remove seed directories", g.seedDirs},
		{"remove snapshots", g.snapshots},
		{"remove pages", g.pages},
	}
}

// collect makes one sweep.
func (p *Pool) collect(ctx context.Context, dry bool) ([]*api.Garbage, error) {
	g := &sweep{pool: p, dry: dry}
	var errs []error
	for _, step := range append([]sweepStep{{"end cut bakes", g.bakes}, {"remove templates", g.templates}}, g.steps()...) {
		errs = append(errs, step.do(ctx))
	}
	return g.found, errors.Join(errs...)
}

// collectRegularly makes sweeps until ctx ends.
func (p *Pool) collectRegularly(ctx context.Context) {
	interval := time.Duration(p.config.GC.Interval)
	if interval == 0 {
		return
	}
	again := time.NewTicker(interval)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
		}
		found, err := p.collect(ctx, false)
		if err != nil {
			log.G(ctx).WithError(err).Warn("collect garbage")
		}
		for _, one := range found {
			log.G(ctx).WithFields(log.Fields{"kind": one.Kind, "id": one.Id}).Warn("removed what belonged to nobody")
		}
	}
}

// owned says whether a seed has a row, or will have one. In this order: a bake that ends in between has its row by then.
func (p *Pool) owned(seed string) bool { return p.isYoung(seed) || p.seedKnown(seed) }

// bakes ends what a bake that was cut has running. Its snapshot is dropped by the snapshotter, its directory by seedDirs.
func (g *sweep) bakes(ctx context.Context) error {
	return eachName(g.pool.paths.BakesDir(), func(id string) error {
		if g.pool.isYoung(id) {
			return nil
		}
		return g.remove("bake", id, func() error {
			ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
			defer cancel()
			return bake.CleanupDir(ctx, filepath.Join(g.pool.paths.BakesDir(), id))
		})
	})
}

// templates removes those of keepers that do not run. None is started meanwhile.
func (g *sweep) templates(ctx context.Context) error {
	p := g.pool
	return eachName(p.paths.TemplatesDir(), func(seedID string) error {
		if p.isYoung(seedID) {
			return nil
		}
		p.mu.Lock()
		s := p.seeds[seedID]
		p.mu.Unlock()
		if s != nil {
			s.load.Lock()
			defer s.load.Unlock()
		}
		if _, err := p.keepers.find(ctx, seedID); !errdefs.IsNotFound(err) {
			return err
		}
		return g.remove("template", seedID, func() error { return p.sweepTemplate(ctx, seedID) })
	})
}

// cgroups removes those of spares that have no row, with what lives in them. A bound instance has left its own: what may still hold it is a
// v1 hierarchy, and that is not looked at.
func (g *sweep) cgroups(ctx context.Context) error {
	p := g.pool
	roots, err := linux.Hierarchies()
	if err != nil {
		return err
	}
	seen := make(map[string]bool)
	var errs []error
	for _, root := range roots {
		errs = append(errs, eachName(filepath.Join(root, p.config.CgroupRoot, "spares"), func(id string) error {
			info, err := os.Stat(filepath.Join(root, p.config.CgroupRoot, "spares", id))
			if err != nil || !info.IsDir() || seen[id] || p.knows(id) {
				return nil //nolint:nilerr // it has gone by itself
			}
			seen[id] = true
			return g.remove("cgroup", id, func() error {
				ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
				defer cancel()
				return removeCgroup(ctx, p.spareCgroup(id))
			})
		}))
	}
	return errors.Join(errs...)
}

// instanceDirs removes directories of instances that have no row.
func (g *sweep) instanceDirs(context.Context) error {
	return eachName(g.pool.paths.InstancesDir(), func(id string) error {
		if g.pool.knows(id) {
			return nil
		}
		return g.remove("instance", id, func() error { return os.RemoveAll(g.pool.paths.InstanceDir(id)) })
	})
}

// sleeping removes images of instances that no row says are on disk, or on their way there. One that has a row may be put to sleep at any time, so its container is kept
// from that meanwhile.
func (g *sweep) sleeping(ctx context.Context) error {
	p := g.pool
	return eachName(p.paths.SleepingDir(), func(id string) error {
		i := p.instance(id)
		if i == nil {
			return g.remove("sleeper", id, func() error { return os.RemoveAll(p.paths.SleepDir(id)) })
		}
		row := p.rowOf(i)
		if row.Sleeping != nil {
			return nil
		}
		unlock, err := p.lockContainer(ctx, row.Namespace, row.Container)
		if err != nil {
			return err
		}
		defer unlock()
		if p.rowOf(i).Sleeping != nil {
			return nil
		}
		return g.remove("sleeper", id, func() error { return p.removeImage(i) })
	})
}

// seedDirs removes directories that no row names: bakes that were cut, and seeds whose removal was.
func (g *sweep) seedDirs(context.Context) error {
	return eachName(g.pool.paths.SeedsDir(), func(id string) error {
		if g.pool.owned(id) {
			return nil
		}
		return g.remove("seed", id, func() error { return os.RemoveAll(g.pool.paths.SeedDir(id)) })
	})
}

// snapshots removes layers and spares' snapshots that no row names, and marks seeds bad whose layer is gone.
func (g *sweep) snapshots(ctx context.Context) error {
	p := g.pool
	ready := p.readySeeds() // asked before: a seed that is baked meanwhile has its layer all the same
	layers, spares, err := p.rootfs.List(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, id := range spares {
		if !p.knows(id) {
			errs = append(errs, g.remove("snapshot", id, func() error { return p.rootfs.RemoveSpare(ctx, id) }))
		}
	}
	for _, id := range layers {
		if !p.owned(id) {
			errs = append(errs, g.remove("layer", id, func() error { return p.rootfs.RemoveSeed(ctx, id) }))
		}
	}
	for _, s := range ready {
		if !g.dry && !slices.Contains(layers, s.id) && p.seedKnown(s.id) {
			errs = append(errs, p.markBad(ctx, s, "its rootfs layer is gone"))
		}
	}
	return errors.Join(errs...)
}

// readySeeds are those that instances may be made from.
func (p *Pool) readySeeds() (list []*seed) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if s.meta.Info.Phase == SeedReady {
			list = append(list, s)
		}
	}
	return list
}

// pages removes memory that no seed has: of bakes and removals that were cut, and what was written out and is not needed any more.
func (g *sweep) pages(ctx context.Context) error {
	p := g.pool
	old, err := filepath.Glob(p.paths.HotImagesDir("*"))
	errs := []error{err}
	for _, dir := range old {
		if dir != p.paths.HotImagesDir(p.boot) {
			errs = append(errs, g.remove("image", filepath.Base(dir), func() error { return os.RemoveAll(dir) }))
		}
	}
	errs = append(errs, eachName(p.paths.HotImagesDir(p.boot), func(name string) error {
		id := strings.TrimSuffix(name, suffixNew)
		if g.dry || p.isYoung(id) {
			return nil
		}
		return p.cool(ctx, id)
	}))
	if p.pages == nil {
		return errors.Join(errs...)
	}
	stored, err := p.pages.List(ctx)
	errs = append(errs, err)
	for id, namespace := range stored {
		if !p.owned(id) {
			errs = append(errs, g.remove("pages", id, func() error { return p.pages.Remove(ctx, namespace, id) }))
		}
	}
	return errors.Join(errs...)
}
