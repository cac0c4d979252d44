package shim

import (
	"context"
	"fmt"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
)

// pids lists the processes of the task. The list is never empty: containerd drops a task without processes when it restarts,
// so that a stopped one keeps the pid of its first process until it is deleted.
func (t *wokenTask) pids(context.Context, *taskAPI.PidsRequest) (*taskAPI.PidsResponse, error) {
	pids, err := t.cgroup.Procs()
	if err != nil || len(pids) == 0 {
		pids = []int{int(t.pid())}
	}
	execs := make(map[int]string)
	for _, e := range t.processes() {
		execs[e.Pid()] = e.ID()
	}
	resp := &taskAPI.PidsResponse{}
	for _, pid := range pids {
		info := &task.ProcessInfo{Pid: uint32(pid)}
		if id, ok := execs[pid]; ok {
			details, err := typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: id})
			if err != nil {
				return nil, errgrpc.ToGRPC(fmt.Errorf("encode process %d of task %s: %w", pid, t.id, err))
			}
			info.Info = details
		}
		resp.Processes = append(resp.Processes, info)
	}
	return resp, nil
}
