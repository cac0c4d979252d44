package seedpool

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

// Bake implements api.SeedsService. A client that goes away ends the bake; whatever fails leaves nothing behind.
func (s *service) Bake(ctx context.Context, r *api.BakeRequest, stream api.Seeds_BakeServer) (err error) {
	defer func() { err = toGRPC("bake seed "+r.Name, err) }()
	o, err := s.pool.order(r)
	if err != nil {
		return err
	}
	if err := s.pool.settled(ctx); err != nil {
		return err
	}
	s.pool.tasks.Add(1)
	defer s.pool.tasks.Done()
	done, err := s.pool.beginBake(r.Namespace, r.Name)
	if err != nil {
		return err
	}
	defer done()
	r.Automatic = false
	s.pool.noteImage(ctx, r)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.pool.life, func() { cancel(errClosing) })()
	o.tell = func(e *api.BakeEvent) {
		if err := stream.Send(e); err != nil {
			cancel(fmt.Errorf("tell client: %w", err))
		}
	}
	info, err := s.pool.bake(ctx, o)
	if failed, ok := errors.AsType[*bake.Error](err); ok {
		// The app's and CRIU's own words are what helps the user: all of it is the message.
		return status.Error(codes.FailedPrecondition, failed.Report())
	}
	if err != nil {
		return err
	}
	return stream.Send(&api.BakeEvent{Step: "done", Message: "seed " + info.Name + " is ready", Seed: info})
}

// order is a bake request that has been checked.
type order struct {
	request *api.BakeRequest
	spec    *specs.Spec
	key     *api.Key
	ready   bake.Readiness
	tell    func(*api.BakeEvent)
	// bounds are those of its pool, unless it takes another seed's.
	bounds spareBounds
	// instead is the seed that the new one is to replace, and nothing else; nil: whatever has its name.
	instead *seed
}

// order checks a request: everything that can be wrong with it is said before anything is made.
func (p *Pool) order(r *api.BakeRequest) (*order, error) {
	if err := errors.Join(checkNamespace(r.Namespace), checkName(r.Name)); err != nil {
		return nil, err
	}
	if r.Mode == "" {
		r.Mode = ModePrestart
	}
	if r.Mode != ModeClone && r.Mode != ModePrestart {
		return nil, fail(errdefs.ErrInvalidArgument, "mode %q: want %s or %s", r.Mode, ModePrestart, ModeClone)
	}
	o := &order{request: r}
	var err error
	if o.spec, err = DecodeSpec(r.Spec); err != nil {
		return nil, fail(errdefs.ErrInvalidArgument, "%w", err)
	}
	if r.LateMounts, err = cleanLateMounts(r.LateMounts); err != nil {
		return nil, err
	}
	if err := withhold(r, o.spec); err != nil {
		return nil, err
	}
	if o.key, err = KeyOf(o.spec); err != nil {
		return nil, fail(errdefs.ErrInvalidArgument, "%w", err)
	}
	if o.ready, err = bake.ReadinessOf(r.Ready); err != nil {
		return nil, fail(errdefs.ErrInvalidArgument, "%w", err)
	}
	if err := p.checkMerge(r); err != nil {
		return nil, err
	}
	if err := CheckAfterWake(r.AfterWake); err != nil {
		return nil, fail(errdefs.ErrInvalidArgument, "%w", err)
	}
	if p.host == nil && r.Mode == ModeClone {
		return nil, fail(errdefs.ErrFailedPrecondition, "%s does not run: install CRIU 4.2 or later, name it in sproutd's configuration (criu = …) and restart sproutd", p.criu.Path)
	}
	return o, nil
}

// beginBake takes the name for one bake.
func (p *Pool) beginBake(namespace, name string) (done func(), err error) {
	key := namespace + "/" + name
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.baking[key] {
		return nil, fail(errdefs.ErrAlreadyExists, "a bake of seed %s in namespace %s is under way: wait until it has ended, or end it", name, namespace)
	}
	p.baking[key] = true
	return func() {
		p.mu.Lock()
		delete(p.baking, key)
		p.mu.Unlock()
	}, nil
}
