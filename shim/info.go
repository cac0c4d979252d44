package shim

import (
	"context"
	"fmt"
	"io"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool"
)

// Info reads runtime options as containerd sends them to `-info` from r, and writes what the runtime can do with them to w: what runc can, as every container may
// have to start cold.
func Info(ctx context.Context, r io.Reader, w io.Writer) error {
	info, err := manager.NewShimManager(Runtime).Info(ctx, r)
	if err != nil {
		return fmt.Errorf("ask runc what it can do: %w", err)
	}
	info.Version = &types.RuntimeVersion{Version: seedpool.Version}
	data, err := proto.Marshal(info)
	if err != nil {
		return fmt.Errorf("encode runtime info: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("print runtime info: %w", err)
	}
	return nil
}
