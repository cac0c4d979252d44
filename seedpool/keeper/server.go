package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// restores is how many instances are made at once. Two cores' worth: more only makes each of them slower.
const restores = 2

// server serves the Keeper service.
type server struct {
	config Config
	// slots bounds the restores under way.
	slots chan struct{}
	// over is closed when the keeper has been retired and is empty.
	over chan struct{}

	mu        sync.Mutex
	instances map[string]*instance // +checklocks:mu
	busy      int                  // +checklocks:mu
	retired   bool                 // +checklocks:mu
	ended     bool                 // +checklocks:mu
}

func newServer(c Config) *server {
	return &server{config: c, slots: make(chan struct{}, restores), over: make(chan struct{}), instances: make(map[string]*instance)}
}

var _ api.KeeperService = (*server)(nil)

// Make restores one instance, frozen.
func (s *server) Make(ctx context.Context, r *api.MakeRequest) (_ *api.MakeResponse, err error) {
	defer func() { err = errgrpc.ToGRPC(err) }()
	if err := s.begin(r.Id); err != nil {
		return nil, err
	}
	defer s.finish()
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	i, phases, err := makeInstance(ctx, s.config, r)
	if err != nil {
		return nil, fmt.Errorf("make instance %s of seed %s: %w", r.Id, s.config.Seed, err)
	}
	s.mu.Lock()
	s.instances[r.Id] = i
	s.mu.Unlock()
	go s.await(i)
	return &api.MakeResponse{Instance: i.message, Phases: phases}, nil
}

// begin counts a call under way, so that a retired keeper does not end under it.
func (s *server) begin(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.retired {
		return fmt.Errorf("keeper of seed %s is retired: %w", s.config.Seed, errdefs.ErrFailedPrecondition)
	}
	if s.instances[id] != nil {
		return fmt.Errorf("instance %s: %w", id, errdefs.ErrAlreadyExists)
	}
	s.busy++
	return nil
}

func (s *server) finish() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
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
	if s.retired && !s.ended && s.busy == 0 && len(s.instances) == 0 {
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

// Kill ends an instance and returns when it is gone.
func (s *server) Kill(ctx context.Context, r *api.InstanceRef) (*api.Empty, error) {
	i, err := s.get(r.Id)
	if errdefs.IsNotFound(err) {
		return &api.Empty{}, nil
	}
	// A retired keeper whose last instance this is stays for the answer.
	s.mu.Lock()
	s.busy++
	s.mu.Unlock()
	defer s.finish()
	return &api.Empty{}, errgrpc.ToGRPC(i.kill(ctx))
}

// ListInstances lists the instances that have not ended.
func (s *server) ListInstances(context.Context, *api.Empty) (*api.ListInstancesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	resp := &api.ListInstancesResponse{Pid: int64(os.Getpid())}
	for _, i := range s.instances {
		resp.Instances = append(resp.Instances, i.message)
	}
	return resp, nil
}

// Retire lets the keeper end with its last instance.
func (s *server) Retire(context.Context, *api.Empty) (*api.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.retired = true
	s.endWhenIdleLocked()
	return &api.Empty{}, nil
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
