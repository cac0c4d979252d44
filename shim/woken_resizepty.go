package shim

import (
	"context"

	"github.com/containerd/console"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs/pkg/errgrpc"
)

// resizePty resizes the terminal of an exec'd process. A woken task has none itself: one that asks for a terminal starts cold.
func (t *wokenTask) resizePty(_ context.Context, r *taskAPI.ResizePtyRequest) (*ptypes.Empty, error) {
	if r.ExecID == "" {
		return &ptypes.Empty{}, nil
	}
	e, err := t.process(r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	size := console.WinSize{Width: uint16(r.Width), Height: uint16(r.Height)}
	if err := e.Resize(size); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &ptypes.Empty{}, nil
}
