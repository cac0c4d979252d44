package shim

import (
	"context"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// wait answers when the task, or an exec'd process of it, has exited.
func (t *wokenTask) wait(ctx context.Context, r *taskAPI.WaitRequest) (*taskAPI.WaitResponse, error) {
	if r.ExecID != "" {
		return t.waitExec(ctx, r.ExecID)
	}
	select {
	case <-t.exited:
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
	e := t.exit()
	return &taskAPI.WaitResponse{ExitStatus: e.Status, ExitedAt: protobuf.ToTimestamp(e.At)}, nil
}

func (t *wokenTask) exit() exit {
	t.mu.Lock()
	defer t.mu.Unlock()
	return exit{Status: t.status, At: t.exitedAt, PID: t.pid()}
}

func (t *wokenTask) waitExec(ctx context.Context, execID string) (*taskAPI.WaitResponse, error) {
	e, err := t.process(execID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := e.Wait(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &taskAPI.WaitResponse{ExitStatus: uint32(e.ExitStatus()), ExitedAt: protobuf.ToTimestamp(e.ExitedAt())}, nil
}
