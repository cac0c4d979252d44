package shim

import (
	"context"
	"fmt"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runc "github.com/containerd/go-runc"
)

// execTask is one process that was added to a woken task: made, started and waited for by containerd's own runc shim code.
type execTask struct {
	process.Process
}

// exec adds a process to the task; start runs it.
func (t *wokenTask) exec(ctx context.Context, r *taskAPI.ExecProcessRequest) (*ptypes.Empty, error) {
	if err := t.reserveExec(r.ExecID); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	p, err := t.newExec(ctx, r)
	t.mu.Lock()
	if err != nil {
		delete(t.execs, r.ExecID)
	} else {
		t.execs[r.ExecID] = &execTask{Process: p}
	}
	t.mu.Unlock()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	t.tasks.publish(&eventstypes.TaskExecAdded{ContainerID: t.id, ExecID: r.ExecID})
	return &ptypes.Empty{}, nil
}

func (t *wokenTask) reserveExec(execID string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, taken := t.execs[execID]; taken {
		return fmt.Errorf("add process %s to task %s: %w", execID, t.id, errdefs.ErrAlreadyExists)
	}
	if t.gone || (t.phase != phaseCreated && t.phase != phaseRunning) {
		return fmt.Errorf("add process to task %s in phase %s: %w", t.id, t.phase, errdefs.ErrFailedPrecondition)
	}
	t.execs[execID] = nil
	return nil
}

func (t *wokenTask) newExec(ctx context.Context, r *taskAPI.ExecProcessRequest) (process.Process, error) {
	platform, err := t.tasks.consoles.platform()
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	if t.init.Platform == nil {
		t.init.Platform = platform
	}
	t.mu.Unlock()
	return t.init.Exec(ctx, t.bundle, &process.ExecConfig{
		ID:       r.ExecID,
		Terminal: r.Terminal,
		Stdin:    r.Stdin,
		Stdout:   r.Stdout,
		Stderr:   r.Stderr,
		Spec:     r.Spec,
	})
}

// startExec runs an added process with `runc exec` and watches for its exit.
func (t *wokenTask) startExec(ctx context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	e, err := t.process(r.ExecID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := t.beginExec(); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	child := expectChild()
	if err := e.Start(ctx); err != nil {
		child.forget()
		t.running.Done()
		return nil, errgrpc.ToGRPC(err)
	}
	pid := uint32(e.Pid())
	t.tasks.publish(&eventstypes.TaskExecStarted{ContainerID: t.id, ExecID: r.ExecID, Pid: pid})
	exited := child.is(e.Pid())
	go func() { t.execExited(e, <-exited) }()
	return &taskAPI.StartResponse{Pid: pid}, nil
}

// beginExec counts one process more, unless the task does not run: `runc exec` into a frozen cgroup would hang until it is thawed.
func (t *wokenTask) beginExec() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || t.phase != phaseRunning {
		return fmt.Errorf("start process in task %s in phase %s: %w", t.id, t.phase, errdefs.ErrFailedPrecondition)
	}
	t.running.Add(1)
	return nil
}

func (t *wokenTask) execExited(e *execTask, exit runc.Exit) {
	e.SetExited(exit.Status)
	t.tasks.publish(&eventstypes.TaskExit{
		ContainerID: t.id,
		ID:          e.ID(),
		Pid:         uint32(exit.Pid),
		ExitStatus:  uint32(exit.Status),
		ExitedAt:    protobuf.ToTimestamp(e.ExitedAt()),
	})
	t.running.Done()
}
