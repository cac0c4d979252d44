package seedpool

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// SetPool implements api.SeedsService. It does not wait for the spares.
func (s *service) SetPool(ctx context.Context, r *api.SetPoolRequest) (_ *api.PoolInfo, err error) {
	defer func() { err = toGRPC("set pool", err) }()
	if err := s.pool.settled(ctx); err != nil {
		return nil, err
	}
	bounds := spareBounds{min: r.Spares, max: max(r.Spares, r.Max)}
	if bounds.max > math.MaxInt16 {
		return nil, fail(errdefs.ErrInvalidArgument, "%d spares: want at most %d", bounds.max, math.MaxInt16)
	}
	if r.Max != 0 && r.Max < r.Spares {
		return nil, fail(errdefs.ErrInvalidArgument, "at least %d spares and at most %d", r.Spares, r.Max)
	}
	one, err := s.pool.find(r.Namespace, r.Seed)
	if err != nil {
		return nil, err
	}
	if r.Priority != nil {
		bounds.priority = *r.Priority
	} else {
		s.pool.mu.Lock()
		bounds.priority = one.bounds.priority
		s.pool.mu.Unlock()
	}
	if err := s.pool.setPool(ctx, one, bounds); err != nil {
		return nil, err
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	return s.pool.infoLocked(one), nil
}

// ListPools implements api.SeedsService: the pool of every seed, also when no spares are wanted.
func (s *service) ListPools(_ context.Context, r *api.ListPoolsRequest) (_ *api.ListPoolsResponse, err error) {
	defer func() { err = toGRPC("list pools", err) }()
	if err := checkScope(r.Namespace); err != nil {
		return nil, err
	}
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	list := &api.ListPoolsResponse{}
	for _, one := range p.seeds {
		if r.Namespace == "" || one.meta.Info.Namespace == r.Namespace {
			list.Pools = append(list.Pools, p.infoLocked(one))
		}
	}
	slices.SortFunc(list.Pools, func(a, b *api.PoolInfo) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return list, nil
}

// infoLocked is what is told of a seed's pool. The caller holds Pool.mu.
func (p *Pool) infoLocked(s *seed) *api.PoolInfo {
	why := s.lastError
	if wait, short := p.memory.wait(time.Now()); wait > 0 {
		why = fmt.Sprintf("no spares are made for %s: %s ([pool] in sproutd's configuration)", wait.Round(time.Second), short)
	}
	return &api.PoolInfo{
		Namespace: s.meta.Info.Namespace, Seed: s.id, Name: s.meta.Info.Name,
		Want: uint32(p.wantedLocked(s, time.Now())), Min: s.bounds.min, Max: s.bounds.max, Ready: uint32(len(s.ready)), Making: uint32(s.making),
		ClaimedTotal: s.claimed, EvictedTotal: s.evicted, Priority: s.bounds.priority, FailedTotal: s.failed, LastError: why, KeeperPid: s.keeperPID,
	}
}
