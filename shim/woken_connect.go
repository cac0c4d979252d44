package shim

import (
	"context"
	"os"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
)

// connect tells the pids of this shim and of the task.
func (t *wokenTask) connect(context.Context, *taskAPI.ConnectRequest) (*taskAPI.ConnectResponse, error) {
	return &taskAPI.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: t.pid()}, nil
}
