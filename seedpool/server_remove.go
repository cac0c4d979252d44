package seedpool

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// RemoveSeed implements api.SeedsService. Containers that were started from the seed go on.
func (s *service) RemoveSeed(ctx context.Context, r *api.SeedRef) (_ *api.Empty, err error) {
	defer func() { err = toGRPC("remove seed", err) }()
	if err := s.pool.settled(ctx); err != nil {
		return nil, err
	}
	one, err := s.pool.find(r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	if err := s.pool.removeSeed(ctx, one); err != nil {
		return nil, err
	}
	return &api.Empty{}, nil
}

// removeSeed deletes the row, which is what counts, and then all that the seed had. What cannot be removed now is removed when sproutd starts next.
func (p *Pool) removeSeed(ctx context.Context, s *seed) error {
	if err := p.leaveSpec(s); err != nil {
		return err
	}
	p.changes.Lock()
	err := p.store.deleteSeed(s.id)
	if err == nil {
		p.mu.Lock()
		s.retired, s.bounds = true, spareBounds{}
		delete(p.seeds, s.id)
		p.mu.Unlock()
	}
	p.changes.Unlock()
	if err != nil {
		return err
	}
	p.point("seed row deleted")
	return p.retire(ctx, s)
}

// leaveSpec leaves the seed's spec with its instances: they may be put to sleep when it is gone.
func (p *Pool) leaveSpec(s *seed) error {
	if s.booted {
		return nil
	}
	spec, err := s.dir.spec()
	if errors.Is(err, os.ErrNotExist) {
		return nil // a seed that is damaged, or not baked yet
	}
	if err != nil {
		return err
	}
	p.mu.Lock()
	var left []string
	for _, i := range p.instances {
		if i.seed == s.id {
			left = append(left, p.paths.InstanceDir(i.id))
		}
	}
	p.mu.Unlock()
	for _, dir := range left {
		if err := seedDir(dir).write(fileSpec, spec); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// retire removes all that a seed without a row has: spares, keeper, files, layer.
func (p *Pool) retire(ctx context.Context, s *seed) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	p.mu.Lock()
	spares := append([]*instance(nil), s.ready...)
	s.ready = nil
	p.mu.Unlock()
	var errs []error
	for _, i := range spares {
		if p.rowOf(i).Phase == string(phaseReady) {
			errs = append(errs, p.destroy(ctx, i, fatePlain))
		}
	}
	// After this no keeper is started for it any more: load looks at retired under the same lock.
	s.load.Lock()
	defer s.load.Unlock()
	errs = append(errs, p.keepers.retire(ctx, s.id), p.store.setChecked(s.id, ""), os.RemoveAll(string(s.dir)), p.rootfs.RemoveSeed(ctx, s.id),
		p.dropPages(ctx, s.namespace, s.id))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what seed %s had: %w", s.id, err)
	}
	p.events.tell(&api.Event{Kind: EventSeedRemoved, Namespace: s.meta.Info.Namespace, Seed: s.meta.Info.Name})
	log.G(ctx).WithFields(log.Fields{"ns": s.meta.Info.Namespace, "seed": s.meta.Info.Name, "id": s.id}).Info("removed seed")
	return nil
}

// ImageRemoved drops the seeds of an image that containerd wants to remove and cannot, because they stand on it. It returns at once.
func (p *Pool) ImageRemoved(chainID string) {
	p.tasks.Go(func() {
		if p.settled(p.life) != nil {
			return
		}
		p.mu.Lock()
		var gone []*seed
		for _, s := range p.seeds {
			if s.meta.ChainId == chainID {
				gone = append(gone, s)
			}
		}
		p.mu.Unlock()
		for _, s := range gone {
			log.G(p.life).WithFields(log.Fields{"ns": s.meta.Info.Namespace, "seed": s.meta.Info.Name}).Info("remove seed with its image")
			if err := p.removeSeed(p.life, s); err != nil {
				log.G(p.life).WithError(err).WithField("seed", s.id).Error("remove seed with its image")
			}
		}
	})
}
