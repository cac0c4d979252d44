package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
)

// Delete removes what is left of an ended task, or of a process that was added to it.
func (s *service) Delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	// The task is gone before the answer is out: containerd's wish to end, for another task of the pod, must not come between.
	s.begin()
	defer s.end()
	if t := s.woken.get(r.ID); t != nil {
		return t.delete(ctx, r)
	}
	resp, err := s.cold.Delete(ctx, r)
	if err != nil || r.ExecID != "" {
		return resp, err
	}
	s.forget(ctx, r.ID, resp)
	return resp, nil
}

// forget ends what this package has of a cold task that runc has deleted.
func (s *service) forget(ctx context.Context, id string, ended *taskAPI.DeleteResponse) {
	s.mu.Lock()
	task := s.booted[id]
	delete(s.booted, id)
	s.mu.Unlock()
	if task == nil {
		return
	}
	task.record.remove(ctx)
	// Without the file the launcher's `delete` takes longer and comes to the same.
	e := exit{Status: ended.ExitStatus, At: ended.ExitedAt.AsTime(), PID: ended.Pid}
	if err := writeBundleExit(task.bundle, e); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("write exit into bundle")
	}
}
