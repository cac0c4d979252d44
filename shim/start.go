package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// Start lets the app run: it thaws a woken one, and lets runc start a cold one.
func (s *service) Start(ctx context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	if t := s.woken.get(r.ID); t != nil {
		return t.start(ctx, r)
	}
	task := s.coldTask(r.ID)
	if r.ExecID != "" || task == nil {
		return s.cold.Start(ctx, r)
	}
	stop := task.record.spend("runc-start")
	resp, err := s.cold.Start(ctx, r)
	stop()
	if err != nil {
		return nil, err
	}
	task.record.finish(ctx, resp.Pid)
	return resp, nil
}
