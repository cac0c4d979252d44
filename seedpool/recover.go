package seedpool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/thaw"
)

// recoverTimeout bounds each step of recovery that waits for a process.
const recoverTimeout = 30 * time.Second

// recover brings rows, files, snapshots, cgroups and keepers into agreement after whatever has ended the last sproutd. Containers are started meanwhile:
// each instance has its row before anything else of it exists, so what has no row is nobody's. No step fails the others: what it could not do it logs.
func (p *Pool) recover(ctx context.Context) {
	began := time.Now()
	left := &sweep{pool: p}
	for _, step := range append([]sweepStep{
		{"put back settings of ksmd", p.recoverMerging},
		{"end cut bakes", left.bakes},
		{"find keepers", p.recoverKeepers},
		{"remove templates", left.templates},
		{"recover instances", p.recoverInstances},
	}, left.steps()...) {
		if ctx.Err() != nil {
			return
		}
		p.point(step.what)
		if err := step.do(ctx); err != nil {
			log.G(ctx).WithError(err).Error(step.what)
		}
	}
	p.mu.Lock()
	fields := log.Fields{"seeds": len(p.seeds), "instances": len(p.instances), "ms": time.Since(began).Milliseconds()}
	p.mu.Unlock()
	log.G(ctx).WithFields(fields).Info("recovered")
}

// recoverKeepers connects to the keepers that run. Those of seeds that are gone are told to end, and what one that was killed has left is removed.
func (p *Pool) recoverKeepers(ctx context.Context) error {
	seen := make(map[string]bool)
	return eachName(p.paths.KeepersDir(), func(name string) error {
		seedID, _, _ := strings.Cut(name, ".")
		if seen[seedID] || p.isYoung(seedID) {
			return nil
		}
		seen[seedID] = true
		ctx, cancel := context.WithTimeout(ctx, recoverTimeout)
		defer cancel()
		known := p.seedKnown(seedID)
		k, err := p.keepers.find(ctx, seedID)
		switch {
		case errdefs.IsNotFound(err) && known:
			return nil // the next that is started takes its place
		case errdefs.IsNotFound(err):
			return p.keepers.sweep(seedID)
		case err != nil:
			return err
		case !known:
			return errors.Join(p.endStrays(ctx, k), p.keepers.retire(ctx, seedID))
		}
		p.mu.Lock()
		if s := p.seeds[seedID]; s != nil {
			s.keptByLocked(k)
		}
		p.mu.Unlock()
		return p.endStrays(ctx, k)
	})
}

// isYoung says whether a seed is just being baked.
func (p *Pool) isYoung(seed string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.young[seed]
}

// endStrays kills the instances of a keeper that have no row and never left the pool's cgroups: a keeper may finish one for a sproutd that has died. One that
// lives elsewhere is a container's: it is never touched.
func (p *Pool) endStrays(ctx context.Context, k *keeperConn) error {
	list, err := k.ListInstances(ctx, &api.Empty{})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	var errs []error
	for _, inst := range list.Instances {
		if p.knows(inst.Id) || inst.Cgroup != p.spareCgroup(inst.Id).Path {
			continue
		}
		where, err := linux.UnifiedPath(int(inst.Pid))
		if err != nil || where != inst.Cgroup {
			continue
		}
		log.G(ctx).WithField("id", inst.Id).Warn("kill instance without a row")
		_, err = k.Kill(ctx, &api.InstanceRef{Id: inst.Id})
		errs = append(errs, errgrpc.ToNative(err), removeCgroup(ctx, p.spareCgroup(inst.Id)), os.RemoveAll(p.paths.InstanceDir(inst.Id)))
	}
	return errors.Join(errs...)
}

// knows says whether an instance has a row.
func (p *Pool) knows(instance string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.instances[instance] != nil
}

// recoverInstances looks at each row that the last sproutd left. A spare that is alive, frozen and kept goes back into its pool; what was being made or destroyed
// is destroyed; what a container has claimed is left to keepOrder.
func (p *Pool) recoverInstances(ctx context.Context) error {
	p.mu.Lock()
	var left []*instance
	for _, i := range p.instances {
		if i.inherited {
			left = append(left, i)
		}
	}
	p.mu.Unlock()
	slices.SortFunc(left, func(a, b *instance) int { return strings.Compare(a.id, b.id) })
	var errs []error
	for _, i := range left {
		row := p.rowOf(i)
		switch phase(row.Phase) {
		case phaseReady:
			if err := p.readmit(i, row); err == nil {
				continue
			}
		case phaseClaimed, phaseBound:
			continue
		}
		errs = append(errs, p.destroyAlone(ctx, i, fatePlain))
	}
	return errors.Join(errs...)
}

// readmit puts a spare that survived into its pool.
func (p *Pool) readmit(i *instance, row *api.InstanceRow) error {
	inst := row.Instance
	if err := thaw.Ready(linux.Cgroup{Path: inst.Cgroup}, int(inst.Pid), inst.StartTime); err != nil {
		return err
	}
	if k := p.keepers.current(i.seed); k == nil || !k.alive() {
		return errors.New("its keeper has ended")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	s := p.seeds[i.seed]
	if s == nil || s.meta.Info.Phase != SeedReady || len(s.ready) >= p.wantedLocked(s, time.Now()) {
		return errors.New("it is not wanted")
	}
	s.ready = append(s.ready, i)
	return nil
}

func (p *Pool) seedKnown(id string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.seeds[id] != nil
}

// eachName calls do for each entry of a directory and goes on after errors. A directory that does not exist has none.
func eachName(dir string, do func(name string) error) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		if err := do(path.Base(entry.Name())); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
