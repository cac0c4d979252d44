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

// kill signals the first process, every process (all) or one exec'd process. SIGKILL ends a sleeping task, for any other signal it is woken.
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
	for {
		done, err := t.signalLife(ctx, sig, r.All)
		if done || err != nil {
			return err
		}
		// It sleeps, or is about to, or to wake. SIGKILL ends what sleeps, all else it is woken for.
		if done, err = t.disturb(ctx, sig); done || err != nil {
			return err
		}
	}
}

// signalLife signals the processes of the task; done: it has some that take signals, or never will again.
func (t *wokenTask) signalLife(ctx context.Context, sig syscall.Signal, all bool) (done bool, err error) {
	t.signals.RLock()
	defer t.signals.RUnlock()
	switch t.phaseNow() {
	case phaseStopped, phaseDeleted:
		return true, t.alreadyFinished()
	case phaseAsleep, phaseWaking:
		return false, nil
	case phaseDozing:
		if sig != sigkill {
			return false, nil
		}
		t.noteKilled()
	case phasePaused:
		// The v1 freezer of `runc pause` holds even SIGKILL back: runc thaws it then.
		return true, t.runtime.Kill(ctx, t.id, int(sig), &runc.KillOpts{All: all})
	}
	if all {
		return true, t.signalAll(sig)
	}
	return true, t.signalled(t.now().pidfd.Signal(sig))
}

// noteKilled keeps a task that is being put to sleep from sleeping.
func (t *wokenTask) noteKilled() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now().killed = true
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
