package shim

import (
	"context"
	"fmt"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// stats reads the task's cgroup as containerd's runc shim does: its v1 controllers on a legacy or hybrid host, else v2.
func (t *wokenTask) stats(context.Context, *taskAPI.StatsRequest) (*taskAPI.StatsResponse, error) {
	metrics, err := cgroupMetrics(t.cgroup.Path)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("read statistics of task %s: %w", t.id, err))
	}
	data, err := typeurl.MarshalAnyToProto(metrics)
	if err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("encode statistics of task %s: %w", t.id, err))
	}
	return &taskAPI.StatsResponse{Stats: data}, nil
}

func cgroupMetrics(path string) (any, error) {
	group, err := loadCgroup(path)
	if err != nil {
		return nil, err
	}
	if v1, ok := group.(cgroup1.Cgroup); ok {
		return v1.Stat(cgroup1.IgnoreNotExist)
	}
	return group.(*cgroup2.Manager).Stat()
}

// loadCgroup returns the cgroup as containerd's library knows it: a cgroup1.Cgroup or a *cgroup2.Manager.
func loadCgroup(path string) (any, error) {
	if cgroups.Mode() == cgroups.Unified {
		return cgroup2.Load(path)
	}
	return cgroup1.Load(cgroup1.StaticPath(path))
}
