package shim

import (
	"context"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"

	"github.com/sproutrun/sprout/seedpool"
)

// slowCold is a cold service without tasks whose creates and deletes wait to be let go. It counts the ends that it is asked for.
type slowCold struct {
	taskAPI.TTRPCTaskService
	entered, leave chan struct{}
	ends           int
}

func (c *slowCold) wait() {
	c.entered <- struct{}{}
	<-c.leave
}

func (c *slowCold) Create(context.Context, *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	c.wait()
	return &taskAPI.CreateTaskResponse{}, nil
}

func (c *slowCold) Delete(context.Context, *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	c.wait()
	return &taskAPI.DeleteResponse{}, nil
}

func (c *slowCold) Shutdown(context.Context, *taskAPI.ShutdownRequest) (*ptypes.Empty, error) {
	c.ends++
	return done, nil
}

func TestShimDoesNotEndWhileAnotherTaskOfItsPodIsMadeOrDeleted(t *testing.T) {
	t.Setenv(seedpool.RunDirEnv, t.TempDir())
	ctx := namespaces.WithNamespace(t.Context(), "ns")
	for name, request := range map[string]func(*service) error{
		"create": func(s *service) error {
			_, err := s.Create(ctx, &taskAPI.CreateTaskRequest{ID: "other", Bundle: t.TempDir()})
			return err
		},
		"delete": func(s *service) error {
			_, err := s.Delete(ctx, &taskAPI.DeleteRequest{ID: "other"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			cold := &slowCold{entered: make(chan struct{}), leave: make(chan struct{})}
			s := &service{woken: newWokenTasks(func(any) {}, seedpool.ShimParams{}, nil), cold: cold, booted: make(map[string]*coldTask)}
			answered := make(chan error)
			go func() { answered <- request(s) }()
			<-cold.entered
			if _, err := s.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: "one"}); err != nil || cold.ends != 0 {
				t.Errorf("asked to end, it ended %d times, %v", cold.ends, err)
			}
			close(cold.leave)
			if err := <-answered; err != nil {
				t.Error(err)
			}
			if _, err := s.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: "other"}); err != nil || cold.ends != 1 {
				t.Errorf("asked again, it ended %d times, %v", cold.ends, err)
			}
		})
	}
}
