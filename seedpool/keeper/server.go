package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/status"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// restores is how many instances are made at once. Two cores' worth: more only makes each of them slower.
const restores = 2

// server serves the Keeper service.
type server struct {
	config Config
	// heat is changed under mu, when none is being made.
	heat *heat
	// templates are what instances are cloned from.
	templates *generations
	// slots bounds the restores under way.
	slots chan struct{}
	// over is closed when the keeper has been retired and is empty.
	over chan struct{}

	mu        sync.Mutex
	instances map[string]*instance // +checklocks:mu
	making    map[string]*call     // +checklocks:mu
	killing   int                  // +checklocks:mu: calls whose answer is still to be sent
	retired   bool                 // +checklocks:mu
	ended     bool                 // +checklocks:mu
}

// call is a Make under way.
type call struct {
	cancel context.CancelFunc
	// over is closed when the instance is among the instances, or nothing of it is left.
	over chan struct{}
}

func newServer(c Config) *server {
	return &server{
		config: c, heat: newHeat(), templates: newGenerations(), slots: make(chan struct{}, restores), over: make(chan struct{}),
		instances: make(map[string]*instance), making: make(map[string]*call),
	}
}

var _ api.KeeperService = (*server)(nil)

// Make makes one instance, frozen.
func (s *server) Make(ctx context.Context, r *api.MakeRequest) (_ *api.MakeResponse, err error) {
	defer func() { err = errgrpc.ToGRPC(err) }()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.begin(r, cancel); err != nil {
		return nil, err
	}
	m, err := s.make(ctx, r)
	if err != nil {
		s.finish(r.Id, nil)
		if _, said := status.FromError(err); said {
			return nil, err
		}
		return nil, fmt.Errorf("make instance %s of seed %s: %w", r.Id, s.config.Seed, err)
	}
	s.finish(r.Id, m.made)
	return &api.MakeResponse{Instance: m.made.message, Phases: m.phases, Unshared: m.unshared}, nil
}

// begin notes an instance that is being made: it can be killed, and a retired keeper does not end under it.
func (s *server) begin(r *api.MakeRequest, cancel context.CancelFunc) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.retired && !r.Again {
		return fmt.Errorf("keeper of seed %s is retired: %w", s.config.Seed, errdefs.ErrFailedPrecondition)
	}
	if s.instances[r.Id] != nil || s.making[r.Id] != nil {
		return fmt.Errorf("instance %s: %w", r.Id, errdefs.ErrAlreadyExists)
	}
	s.making[r.Id] = &call{cancel: cancel, over: make(chan struct{})}
	return nil
}

// make waits for its turn.
func (s *server) make(ctx context.Context, r *api.MakeRequest) (*making, error) {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return s.makeInstance(ctx, r)
}

// finish ends what begin has begun, with the instance or with nil.
func (s *server) finish(id string, i *instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i != nil {
		s.instances[id] = i
		go i.watchMemory(context.Background())
		go s.await(i)
	}
	close(s.making[id].over)
	delete(s.making, id)
	s.endWhenIdleLocked()
}

// await waits for an instance's end and forgets it.
func (s *server) await(i *instance) {
	i.await(context.Background())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.instances, i.message.Id)
	s.endWhenIdleLocked()
}

// endWhenIdleLocked ends a retired keeper that has nothing left to be the parent of.
func (s *server) endWhenIdleLocked() {
	if s.retired && !s.ended && s.killing == 0 && len(s.making) == 0 && len(s.instances) == 0 {
		s.ended = true
		close(s.over)
	}
}

// Forget closes the keeper's ends of an instance's standard streams.
func (s *server) Forget(_ context.Context, r *api.InstanceRef) (*api.Empty, error) {
	i, err := s.get(r.Id)
	if err == nil {
		err = i.release()
	}
	return &api.Empty{}, errgrpc.ToGRPC(err)
}

// Kill ends an instance and returns when it is gone. One that is being made does not come to be.
func (s *server) Kill(ctx context.Context, r *api.InstanceRef) (*api.Empty, error) {
	s.mu.Lock()
	making := s.making[r.Id]
	s.killing++
	s.mu.Unlock()
	// A retired keeper whose last instance this is stays for the answer.
	defer s.killed()
	if making != nil {
		making.cancel()
		select {
		case <-making.over:
		case <-ctx.Done():
			return nil, errgrpc.ToGRPC(ctx.Err())
		}
	}
	i, err := s.get(r.Id)
	if errdefs.IsNotFound(err) {
		return &api.Empty{}, nil
	}
	return &api.Empty{}, errgrpc.ToGRPC(i.kill(ctx))
}

func (s *server) killed() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.killing--
	s.endWhenIdleLocked()
}

// ListInstances lists the instances that have not ended.
func (s *server) ListInstances(context.Context, *api.Empty) (*api.ListInstancesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &api.ListInstancesResponse{Pid: int64(os.Getpid()), Template: s.templates.current().stands()}
	for _, i := range s.instances {
		resp.Instances = append(resp.Instances, i.message)
	}
	return resp, nil
}

// Retire lets the keeper end with its last instance.
func (s *server) Retire(context.Context, *api.Empty) (*api.Empty, error) {
	s.retire()
	return &api.Empty{}, nil
}

func (s *server) retire() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.endWhenIdleLocked()
}

// hot is the heat that is now.
func (s *server) hot() *heat {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.heat
}

func (s *server) get(id string) (*instance, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := s.instances[id]; i != nil {
		return i, nil
	}
	return nil, fmt.Errorf("instance %s: %w", id, errdefs.ErrNotFound)
}

// ownCgroup is the keeper's cgroup in the v2 hierarchy: where CRIU goes when it must not be frozen with the instance.
func ownCgroup() (linux.Cgroup, error) {
	path, err := linux.UnifiedPath(os.Getpid())
	return linux.Cgroup{Path: path}, err
}

// exitFile is where an instance's wait status is written.
func exitFile(dir string) string { return filepath.Join(dir, "exit") }
