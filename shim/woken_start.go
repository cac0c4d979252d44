package shim

import (
	"context"
	"fmt"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// start releases the frozen task, or starts an exec'd process.
func (t *wokenTask) start(ctx context.Context, r *taskAPI.StartRequest) (*taskAPI.StartResponse, error) {
	if r.ExecID != "" {
		return t.startExec(ctx, r)
	}
	t.op.Lock()
	defer t.op.Unlock()
	if err := t.release(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	t.tasks.publish(&eventstypes.TaskStart{ContainerID: t.id, Pid: t.pid()})
	if err := t.tellWoken(ctx, t.record); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := t.poststart(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	t.record.finish(ctx, t.pid())
	go t.takeOver(context.WithoutCancel(ctx), t.now())
	return &taskAPI.StartResponse{Pid: t.pid()}, nil
}

// release lets the first process run, from the instruction at which its image was made.
func (t *wokenTask) release(ctx context.Context) error {
	defer t.record.spend("start")()
	t.mu.Lock()
	from, gone := t.phase, t.gone
	t.mu.Unlock()
	if err := from.check(t.id, phaseRunning); err != nil {
		return err
	}
	if gone {
		return fmt.Errorf("start task %s: its process has ended: %w", t.id, errdefs.ErrFailedPrecondition)
	}
	if hooks := t.spec.Hooks; hooks != nil && len(hooks.StartContainer) > 0 {
		stop := t.record.time("hooks-start")
		err := t.runHooksInContainer(ctx, hooks.StartContainer)
		stop()
		if err != nil {
			return err
		}
	}
	if err := t.signalWaking(); err != nil {
		return fmt.Errorf("signal task %s: %w", t.id, err)
	}
	<-t.now().watched
	stop := t.record.time("thaw")
	err := t.cgroup.Thaw()
	stop()
	if err != nil {
		return fmt.Errorf("thaw task %s: %w", t.id, err)
	}
	return t.move(phaseRunning)
}

// poststart runs the poststart hooks. Like runc's, a hook that fails ends the container.
func (t *wokenTask) poststart(ctx context.Context) error {
	if t.spec.Hooks == nil || len(t.spec.Hooks.Poststart) == 0 {
		return nil
	}
	err := runHooks(ctx, t.spec.Hooks.Poststart, t.ociState(specs.StateRunning))
	if err == nil {
		return nil
	}
	if kerr := t.now().pidfd.Signal(sigkill); kerr != nil {
		log.G(ctx).WithError(kerr).Warn("kill task whose poststart hook failed")
	}
	return fmt.Errorf("run poststart hook of task %s: %w", t.id, err)
}
