package shim

import (
	"context"
	"fmt"
	"sync"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	runctask "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/containerd/v2/pkg/shutdown"

	"github.com/sproutrun/sprout/seedpool"
)

// done is the answer to requests that have none.
var done = &ptypes.Empty{}

// service is the task service that containerd talks to. It only chooses who answers: the woken task with that id, else the cold service.
type service struct {
	woken *wokenTasks
	cold  taskAPI.TTRPCTaskService

	mu     sync.Mutex
	busy   int                  // +checklocks:mu: creates and deletes under way; the shim must not end before they have
	booted map[string]*coldTask // +checklocks:mu
}

// coldTask is what this package knows of a task that the cold service has.
type coldTask struct {
	bundle string
	record *startRecord
}

// newService returns a service without tasks. ctx has the namespace and lives as long as the shim; sd is shut down by the last Shutdown request.
func newService(ctx context.Context, params seedpool.ShimParams, events *eventQueue, sd shutdown.Service, early *ahead) (*service, error) {
	cold, err := runctask.NewTaskService(ctx, events, sd)
	if err != nil {
		return nil, fmt.Errorf("begin runc task service: %w", err)
	}
	woken := newWokenTasks(events.add, params, early)
	sd.RegisterCallback(func(context.Context) error { return woken.close() })
	return &service{woken: woken, cold: cold, booted: make(map[string]*coldTask)}, nil
}

// begin notes a request that makes or removes a task, end that it is done.
func (s *service) begin() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy++
}

func (s *service) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.busy--
}

// coldTask returns a task that started cold; nil: there is none with that id.
func (s *service) coldTask(id string) *coldTask {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.booted[id]
}
