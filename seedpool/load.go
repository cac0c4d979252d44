package seedpool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// loaded is a seed that has been checked and whose keeper answers.
type loaded struct {
	keeper *keeperConn
	images string
	spec   []byte
	meta   *api.SeedMeta
}

// load makes sure that a seed's files are those that were baked, and that its keeper runs. The files are read in full when they have not been in this boot,
// or when stat shows that they were touched since; else a stat of each is all. A damaged seed is marked bad, and the refusal names the file.
func (p *Pool) load(ctx context.Context, s *seed) (*loaded, error) {
	s.load.Lock()
	defer s.load.Unlock()
	if err := p.check(ctx, s); err != nil {
		return nil, err
	}
	spec, err := s.dir.spec()
	if err != nil {
		return nil, err
	}
	images, err := p.images(ctx, s)
	if err != nil {
		return nil, err
	}
	k, err := p.keepers.get(ctx, s.id, p.metaOf(s).Boot)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if s.retired {
		return nil, fail(errdefs.ErrNotFound, "seed %s was removed", s.meta.Info.Name)
	}
	s.keptByLocked(k)
	return &loaded{keeper: k, images: images, spec: spec, meta: s.meta}, nil
}

// keptByLocked notes the seed's keeper, and, of one that was not known, whether it has a template. The caller holds Pool.mu.
func (s *seed) keptByLocked(k *keeperConn) {
	if s.keeperPID != k.pid {
		s.keeperPID, s.fork.stands, s.served = k.pid, k.template, time.Now()
	}
}

// check compares the seed's files with what is known of them. The caller holds s.load.
func (p *Pool) check(ctx context.Context, s *seed) error {
	known, err := p.store.checked(s.id)
	if err != nil {
		return err
	}
	identity, err := s.dir.identity()
	if errors.Is(err, fs.ErrNotExist) {
		return p.damaged(ctx, s, []string{err.Error()})
	}
	if err != nil {
		return fmt.Errorf("check seed: %w", err)
	}
	if identity == known {
		return nil
	}
	// Memory in the page store is checked when it is written out.
	_, _, problems, err := s.dir.verify(s.whole())
	if err != nil {
		return fmt.Errorf("check seed: %w", err)
	}
	if len(problems) > 0 {
		return p.damaged(ctx, s, problems)
	}
	return p.store.setChecked(s.id, identity)
}

// damaged marks the seed bad and gives the refusal.
func (p *Pool) damaged(ctx context.Context, s *seed, problems []string) error {
	why := strings.Join(problems, "; ")
	if err := p.markBad(ctx, s, why); err != nil {
		log.G(ctx).WithError(err).WithField("seed", s.id).Error("mark seed bad")
	}
	return p.refusal(s)
}

// markBad makes a seed unusable until it is baked again. Its spares go: nobody is told of the seed any more.
func (p *Pool) markBad(ctx context.Context, s *seed, why string) error {
	p.changes.Lock()
	defer p.changes.Unlock()
	p.mu.Lock()
	m := proto.CloneOf(s.meta)
	m.Info.Phase, m.Info.Reason = SeedBad, why
	s.meta = m
	spares := append([]*instance(nil), s.ready...)
	counts := p.seeds[s.id] == s
	p.mu.Unlock()
	p.events.tell(&api.Event{Kind: EventSeedBad, Namespace: m.Info.Namespace, Seed: m.Info.Name, Detail: why})
	log.G(ctx).WithFields(log.Fields{"ns": m.Info.Namespace, "seed": m.Info.Name, "id": s.id, "reason": why}).Error("seed is bad")
	p.dropLater(spares)
	if !counts { // it is being baked, or was removed this moment
		return nil
	}
	return errors.Join(p.store.putSeed(m), p.store.setChecked(s.id, ""))
}
