package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
)

// drainBeforeExit is how long an exit waits for the reader of the streams before it is published; drainBeforeDelete how long a
// delete does, which is the runc shim's own patience. What a reader that still reads has not got by then is given to it until delete.
const (
	drainBeforeExit   = 2 * time.Second
	drainBeforeDelete = 10 * time.Second
)

// delete removes what is left of a stopped task, or of an exec'd process. A task that was never started is killed first.
func (t *wokenTask) delete(ctx context.Context, r *taskAPI.DeleteRequest) (*taskAPI.DeleteResponse, error) {
	if r.ExecID != "" {
		return t.deleteExec(ctx, r.ExecID)
	}
	if err := t.endCreated(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	t.op.Lock()
	defer t.op.Unlock()
	if err := t.phaseNow().check(t.id, phaseDeleted); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := t.clear(ctx); err != nil {
		return nil, errgrpc.ToGRPC(fmt.Errorf("delete task %s: %w", t.id, err))
	}
	if err := t.move(phaseDeleted); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	e := t.exit()
	t.tasks.remove(t.id)
	t.tasks.publish(&eventstypes.TaskDelete{
		ContainerID: t.id,
		Pid:         t.pid(),
		ExitStatus:  e.Status,
		ExitedAt:    protobuf.ToTimestamp(e.At),
	})
	return &taskAPI.DeleteResponse{ExitStatus: e.Status, ExitedAt: protobuf.ToTimestamp(e.At), Pid: t.pid()}, nil
}

// endCreated kills a task that was created and not started, and waits for its exit.
func (t *wokenTask) endCreated(ctx context.Context) error {
	if t.phaseNow() != phaseCreated {
		return nil
	}
	if err := t.now().pidfd.Signal(sigkill); err != nil && !ended(err) {
		return fmt.Errorf("kill task %s: %w", t.id, err)
	}
	select {
	case <-t.exited:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// clear removes everything the task holds: runc's state and cgroups (its poststop hooks run), the streams, the rootfs, the instance's
// directory and the start record. The file that lets the launcher answer comes last. It may be repeated after an error.
func (t *wokenTask) clear(ctx context.Context) error {
	t.streams.drain(ctx, drainBeforeDelete)
	// A task that was killed before its start has left its cgroup frozen: where there is only cgroup v2, runc would call it paused.
	if err := t.cgroup.Thaw(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := t.runtime.Delete(ctx, t.id, nil); err != nil && !strings.Contains(err.Error(), "does not exist") {
		return fmt.Errorf("delete runc state: %w", err)
	}
	t.streams.close(ctx)
	if err := mount.UnmountRecursive(filepath.Join(t.bundle, "rootfs"), 0); err != nil {
		return fmt.Errorf("unmount rootfs: %w", err)
	}
	if err := t.cgroup.Remove(); err != nil {
		return fmt.Errorf("remove cgroup %s: %w", t.cgroup.Path, err)
	}
	if err := removeInstanceDir(filepath.Dir(t.now().instance.ExitFile)); err != nil {
		return err
	}
	t.record.remove(ctx)
	if err := t.now().pidfd.Close(); err != nil {
		log.G(ctx).WithError(err).Warn("close pidfd of woken task")
	}
	return writeBundleExit(t.bundle, t.exit())
}

// removeInstanceDir removes an instance's directory, under a name that the keeper does not know: it may be writing the exit file at this moment.
func removeInstanceDir(dir string) error {
	gone := dir + ".gone"
	if err := os.Rename(dir, gone); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove instance directory: %w", err)
	}
	if err := os.RemoveAll(gone); err != nil {
		return fmt.Errorf("remove instance directory: %w", err)
	}
	return nil
}

func (t *wokenTask) deleteExec(ctx context.Context, execID string) (*taskAPI.DeleteResponse, error) {
	e, err := t.process(execID)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := e.Delete(ctx); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	t.mu.Lock()
	delete(t.execs, execID)
	t.mu.Unlock()
	return &taskAPI.DeleteResponse{
		ExitStatus: uint32(e.ExitStatus()),
		ExitedAt:   protobuf.ToTimestamp(e.ExitedAt()),
		Pid:        uint32(e.Pid()),
	}, nil
}
