package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	ptypes "github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runc "github.com/containerd/go-runc"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const sigkill = syscall.SIGKILL

// kill signals the first process, every process (all) or one exec'd process.
// To a task that was not started yet SIGKILL comes at once, as the v2 freezer lets it through; other signals stay pending until the thaw.
func (t *wokenTask) kill(ctx context.Context, r *taskAPI.KillRequest) (*ptypes.Empty, error) {
	if err := t.signal(ctx, r); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return &ptypes.Empty{}, nil
}

func (t *wokenTask) signal(ctx context.Context, r *taskAPI.KillRequest) error {
	if r.ExecID != "" {
		e, err := t.process(r.ExecID)
		if err != nil {
			return err
		}
		return e.Kill(ctx, r.Signal, r.All)
	}
	sig := syscall.Signal(r.Signal)
	switch t.phaseNow() {
	case phaseStopped, phaseDeleted:
		return t.alreadyFinished()
	case phasePaused:
		// The v1 freezer of `runc pause` holds even SIGKILL back: runc thaws it then.
		return t.runtime.Kill(ctx, t.id, int(r.Signal), &runc.KillOpts{All: r.All})
	}
	if r.All {
		return t.signalAll(sig)
	}
	return t.signalled(t.pidfd.Signal(sig))
}

// signalAll signals every process of the task's cgroup.
func (t *wokenTask) signalAll(sig syscall.Signal) error {
	if sig == sigkill {
		return t.cgroup.Kill()
	}
	pids, err := t.cgroup.Procs()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := signalPID(pid, sig); err != nil && !ended(err) {
			return err
		}
	}
	return nil
}

func signalPID(pid int, sig syscall.Signal) error {
	p, err := linux.OpenPidfd(pid)
	if err != nil {
		return err
	}
	defer p.Close()
	return p.Signal(sig)
}

func (t *wokenTask) signalled(err error) error {
	if ended(err) {
		return t.alreadyFinished()
	}
	return err
}

func (t *wokenTask) alreadyFinished() error {
	return fmt.Errorf("signal task %s: process already finished: %w", t.id, errdefs.ErrNotFound)
}

// ended says whether a signal found its process gone.
func ended(err error) bool { return errors.Is(err, os.ErrProcessDone) || errors.Is(err, syscall.ESRCH) }
