package seedpool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/thaw"
)

// Steps of a bake that come after those of package bake.
const (
	stepStore  = "store"
	stepVerify = "verify"
)

// bake makes a seed: boot and dump, store, try once, count. Until the last step it has no row, so a crash leaves what recovery removes; after an error it
// removes all itself.
func (p *Pool) bake(ctx context.Context, o *order) (*api.SeedInfo, error) {
	id := newID()
	began := time.Now()
	p.setYoung(id, true)
	defer p.setYoung(id, false)
	ctx = namespaces.WithNamespace(ctx, o.request.Namespace)
	s, err := p.bakeSeed(ctx, id, o)
	if err == nil {
		err = p.makeRoom(ctx, s)
	}
	if err == nil {
		o.tell(&api.BakeEvent{Step: stepVerify, Message: "waking one instance"})
		err = p.tryOut(ctx, s, o.ready)
	}
	if err == nil {
		p.point("seed tried")
		s.bounds = o.bounds
		err = p.count(ctx, s, o.instead)
	}
	if err != nil {
		return nil, errors.Join(err, p.undoBake(ctx, o.request.Namespace, id))
	}
	info := s.meta.Info
	p.events.tell(&api.Event{Kind: EventSeedBaked, Namespace: info.Namespace, Seed: info.Name})
	log.G(ctx).WithFields(log.Fields{"ns": info.Namespace, "seed": info.Name, "id": id, "ms": time.Since(began).Milliseconds()}).Info("baked seed")
	return info, nil
}

func (p *Pool) setYoung(id string, young bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if young {
		p.young[id] = true
	} else {
		delete(p.young, id)
	}
}

// bakeSeed boots and dumps the app, and stores what it yields: layer, images, spec, sums. Of mode prestart there is nothing to dump.
func (p *Pool) bakeSeed(ctx context.Context, id string, o *order) (*seed, error) {
	overlay, err := p.rootfs.PrepareBake(ctx, id, o.request.ChainId)
	if errdefs.IsNotFound(err) {
		return nil, fmt.Errorf("%w: %w", err, errNotUnpacked)
	}
	if err != nil {
		return nil, err
	}
	if err := os.Mkdir(p.paths.SeedDir(id), 0o700); err != nil {
		return nil, err
	}
	if err := p.paths.seedDir(id).keepRequest(o.request); err != nil {
		return nil, err
	}
	if o.request.Mode == ModePrestart {
		return p.layOut(ctx, id, o)
	}
	result, err := bake.Run(ctx, bake.Options{
		ID: "sprout-" + id, Dir: filepath.Join(p.paths.BakesDir(), id), ImagesDir: p.paths.ImagesDir(id),
		Overlay: overlay, Spec: o.spec, LateMounts: o.request.LateMounts, Ready: o.ready, Warmup: int(o.request.Warmup),
		RuncPath: lookPath(p.config.Runc), CRIU: p.criu, CgroupPath: path.Join(p.config.CgroupRoot, "bakes", id), Progress: o.tell,
	})
	if err != nil {
		return nil, err
	}
	p.point("seed dumped")
	o.tell(&api.BakeEvent{Step: stepStore, Message: "storing the seed"})
	rootfs, err := treeBytes(upperOf(overlay))
	if err != nil {
		return nil, err
	}
	if err := p.rootfs.CommitSeed(ctx, id); err != nil {
		return nil, err
	}
	m := p.describe(id, o, result)
	m.Info.RootfsBytes = rootfs
	if m.Paged, err = p.storePages(ctx, m.Info); err != nil {
		return nil, err
	}
	s := p.newSeed(m)
	if err := s.dir.seal(m, result.Spec); err != nil {
		return nil, fmt.Errorf("store seed: %w", err)
	}
	return s, nil
}

// describe is what is kept of a seed beside its images.
func (p *Pool) describe(id string, o *order, result *bake.Result) *api.SeedMeta {
	r := o.request
	for _, part := range hostPartsFor(r.Mode) {
		o.key.Parts[part] = p.machine()[part]
	}
	o.key.Parts[PartImage] = r.ChainId
	return &api.SeedMeta{
		Info: &api.SeedInfo{
			Id: id, Namespace: r.Namespace, Name: r.Name, Image: r.Image, Mode: r.Mode, Phase: SeedReady,
			CreatedUnixNanoseconds: time.Now().UnixNano(), ImageBytes: result.ImageBytes,
			Processes: uint32(result.Processes), Threads: uint32(result.Threads),
			Key: o.key, LateEnv: r.LateEnv, LateMounts: r.LateMounts, Identity: bake.HasIdentity(result.Spec), AfterWake: r.AfterWake,
			OwnNamespaces: result.OwnNamespaces, Automatic: r.Automatic,
		},
		ChainId: r.ChainId, StdioKeys: result.StdioKeys[:], Ready: r.Ready, Phases: result.Phases,
	}
}

// tryOut wakes one instance, lets it run until it is ready in the sense of the bake, and destroys it.
func (p *Pool) tryOut(ctx context.Context, s *seed, ready bake.Readiness) error {
	i, err := p.makeSpare(ctx, s)
	if i != nil {
		defer p.destroyOrLog(ctx, i, fatePlain)
	}
	if err != nil {
		return fmt.Errorf("make one instance: %w", err)
	}
	inst := p.rowOf(i).Instance
	if err := thaw.Release(linux.Cgroup{Path: inst.Cgroup}); err != nil {
		return fmt.Errorf("wake seed: %w", err)
	}
	if err := bake.Probe(ctx, int(inst.Pid), ready); err != nil {
		return fmt.Errorf("wake seed: it was thawed and is not ready: %w", err)
	}
	return nil
}

// count makes the seed one that containers are started from. A seed of the same name hands its pool over in the same step, and is removed afterwards: with its last
// instance. instead is the one that must still have the name, if s was baked for no other reason; nil: whatever has it.
func (p *Pool) count(ctx context.Context, s, instead *seed) error {
	p.changes.Lock()
	old := p.named(s)
	if instead != nil && old != instead {
		p.changes.Unlock()
		return fail(errdefs.ErrAborted, "seed %s was removed or baked by somebody else meanwhile", s.meta.Info.Name)
	}
	oldID := ""
	if old != nil {
		oldID = old.id
	}
	p.mu.Lock()
	if old != nil {
		s.bounds, s.demand, s.used = old.bounds, old.demand, old.used
	}
	p.mu.Unlock()
	err := p.store.replaceSeed(s.meta, oldID, s.bounds)
	if err == nil {
		p.mu.Lock()
		p.seeds[s.id] = s
		if old != nil {
			old.retired, old.bounds = true, spareBounds{}
			delete(p.seeds, old.id)
		}
		p.mu.Unlock()
	}
	p.changes.Unlock()
	if err != nil {
		return err
	}
	p.point("seed counts")
	p.stir()
	if old != nil {
		if err := p.retire(ctx, old); err != nil {
			log.G(ctx).WithError(err).WithField("seed", old.id).Error("remove replaced seed")
		}
	}
	return nil
}

// named is the seed that has the name of s already; nil: none.
func (p *Pool) named(s *seed) *seed {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.seeds {
		if other.namespace == s.namespace && other.meta.Info.Name == s.meta.Info.Name {
			return other
		}
	}
	return nil
}

// undoBake removes what a failed bake has left: each step of it may or may not have been reached.
func (p *Pool) undoBake(ctx context.Context, namespace, id string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	return errors.Join(p.keepers.retire(ctx, id), p.store.setChecked(id, ""), os.RemoveAll(p.paths.SeedDir(id)),
		p.rootfs.AbortBake(ctx, id), p.rootfs.RemoveSeed(ctx, id), p.dropPages(ctx, namespace, id))
}

var errNotUnpacked = errors.New("unpack the image for the sprout snapshotter first")

// upperOf is the upper directory in the options of an overlay mount.
func upperOf(options []string) string {
	for _, o := range options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return dir
		}
	}
	return ""
}

// treeBytes is the size of the files in a tree.
func treeBytes(root string) (uint64, error) {
	var sum uint64
	err := filepath.WalkDir(root, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sum += uint64(info.Size())
		return nil
	})
	return sum, err
}
