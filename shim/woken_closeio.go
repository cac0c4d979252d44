package shim

import (
	"context"
	"fmt"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// closeIO ends the standard input of the task or of an exec'd process, after what was written to it before.
func (t *wokenTask) closeIO(_ context.Context, r *taskAPI.CloseIORequest) (*ptypes.Empty, error) {
	stdin := t.streams.closeStdin
	if r.ExecID != "" {
		e, err := t.process(r.ExecID)
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		stdin = func() error {
			if in := e.Stdin(); in != nil {
				return in.Close()
			}
			return nil
		}
	}
	if err := stdin(); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("close stdin of task %s: %w", t.id, err))
	}
	return &ptypes.Empty{}, nil
}
