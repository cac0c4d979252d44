package seedpool

import (
	"context"
	"slices"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// ListSeeds implements api.SeedsService.
func (s *service) ListSeeds(_ context.Context, r *api.ListSeedsRequest) (_ *api.ListSeedsResponse, err error) {
	defer func() { err = toGRPC("list seeds", err) }()
	if err := checkScope(r.Namespace); err != nil {
		return nil, err
	}
	p := s.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	list := &api.ListSeedsResponse{}
	for _, one := range p.seeds {
		if r.Namespace == "" || one.meta.Info.Namespace == r.Namespace {
			list.Seeds = append(list.Seeds, s.pool.seedLocked(one))
		}
	}
	slices.SortFunc(list.Seeds, func(a, b *api.SeedInfo) int {
		return strings.Compare(a.Namespace+"/"+a.Name, b.Namespace+"/"+b.Name)
	})
	return list, nil
}

// seedLocked is what is told of a seed, with the counts of its pool. The caller holds Pool.mu.
func (p *Pool) seedLocked(s *seed) *api.SeedInfo {
	info := proto.CloneOf(s.meta.Info)
	if used := s.used.UnixNano(); used > info.CreatedUnixNanoseconds {
		info.UsedUnixNanoseconds = used
	}
	info.SparesWant, info.SparesReady = uint32(p.wantedLocked(s, time.Now())), uint32(len(s.ready))
	return info
}

// InspectSeed implements api.SeedsService.
func (s *service) InspectSeed(ctx context.Context, r *api.SeedRef) (_ *api.SeedInfo, err error) {
	defer func() { err = toGRPC("inspect seed", err) }()
	one, err := s.pool.find(r.Namespace, r.Name)
	if err != nil {
		return nil, err
	}
	usage, err := s.pool.pagesOf(ctx, one)
	if err != nil {
		return nil, err
	}
	s.pool.mu.Lock()
	defer s.pool.mu.Unlock()
	info := s.pool.seedLocked(one)
	info.Pages = usage
	info.Forkable, info.Unforkable = "off", ""
	if s.pool.config.Fork.Enabled {
		info.Forkable, info.Unforkable, info.Template = one.fork.word(), one.fork.obstacle(time.Now()), one.fork.last
	}
	info.Merging = s.pool.mergingLocked(one)
	return info, nil
}
