package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// Create makes the container, by the fastest rung that works. Its first process runs nothing of the app before Start.
func (s *service) Create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, error) {
	s.begin()
	defer s.end()
	opts, err := runcOptions(r.Options)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	r.Options = opts
	resp, record, err := s.woken.create(ctx, r)
	if err != nil {
		return nil, err
	}
	if resp == nil {
		return s.createCold(ctx, r, record)
	}
	// The task is whole without the file, which is for the case that this shim is killed.
	if t := s.woken.get(r.ID); t != nil {
		if err := writeBoundInstance(r.Bundle, t); err != nil {
			return nil, errgrpc.ToGRPC(fmt.Errorf("note instance of task %s: %w", r.ID, err))
		}
	}
	return resp, nil
}

// createCold lets runc boot the container. The request goes on as it came.
func (s *service) createCold(ctx context.Context, r *taskAPI.CreateTaskRequest, record *startRecord) (*taskAPI.CreateTaskResponse, error) {
	stop := record.spend("runc-create")
	resp, err := s.cold.Create(ctx, r)
	stop()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.booted[r.ID] = &coldTask{bundle: r.Bundle, record: record}
	return resp, nil
}

// instanceFileName is the file in the bundle of a woken container from which Cleanup knows what the shim held.
const instanceFileName = "sprout.instance"

// boundInstance is what is left of a woken container when its shim is gone.
type boundInstance struct {
	PID       int    `json:"pid"`
	StartTime uint64 `json:"start_time"`
	// Cgroup is the container's, below every hierarchy's root; ExitFile the keeper's, in the directory of the instance.
	Cgroup   string `json:"cgroup"`
	ExitFile string `json:"exit_file"`
}

func writeBoundInstance(bundle string, t *wokenTask) error {
	inst := t.now().instance
	data, err := json.Marshal(boundInstance{
		PID: int(inst.Pid), StartTime: inst.StartTime, Cgroup: t.cgroup.Path, ExitFile: inst.ExitFile,
	})
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(bundle, instanceFileName), data)
}
