package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	eventstypes "github.com/containerd/containerd/api/events"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// sleepTimeout bounds how long an image may take to be written; the task stands still for most of it.
const sleepTimeout = 2 * time.Minute

// kept is what a task holds while it sleeps. Its cgroup, its limits and its files stay where they are.
type kept struct {
	// streams are its ends of the pipes of its standard streams; nil: it has none there.
	streams [3]*os.File
	// netns is its network namespace, if that is its own; nil: it has joined one.
	netns *os.File
}

func (k *kept) close() {
	for _, f := range append(k.streams[:], k.netns) {
		_ = f.Close() // of nil, too
	}
}

// sleep writes the task to disk and ends its processes. The order is what makes it safe: the image is whole and on disk, and the processes are frozen, before one of them
// is ended. Until then whatever fails leaves the task running as it was.
func (t *wokenTask) sleep(ctx context.Context, closeConnections bool) (*api.SleepResponse, error) {
	t.op.Lock()
	defer t.op.Unlock()
	began := time.Now()
	if err := t.doze(); err != nil {
		return nil, err
	}
	resp, err := t.lieDown(ctx, closeConnections)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("put task %s to sleep: %w", t.id, err), t.stayAwake())
	}
	t.tasks.publish(&eventstypes.TaskPaused{ContainerID: t.id})
	t.record.rested(resp, resp.Phases)
	log.G(ctx).WithFields(log.Fields{"id": t.id, "bytes": resp.Bytes, "full": resp.Full, "ms": time.Since(began).Milliseconds()}).Info("asleep")
	return resp, nil
}

// doze has the task take no signals and no new processes.
func (t *wokenTask) doze() error {
	t.signals.Lock()
	defer t.signals.Unlock()
	t.mu.Lock()
	gone := t.gone
	t.mu.Unlock()
	if gone {
		return fmt.Errorf("put task %s to sleep: its process has ended: %w", t.id, errdefs.ErrFailedPrecondition)
	}
	return t.move(phaseDozing)
}

// stayAwake undoes doze.
func (t *wokenTask) stayAwake() error {
	if t.kept != nil {
		t.kept.close()
		t.kept = nil
	}
	return errors.Join(t.cgroup.Thaw(), t.move(phaseRunning))
}

func (t *wokenTask) lieDown(ctx context.Context, closeConnections bool) (*api.SleepResponse, error) {
	l := t.now()
	pids, err := t.cgroup.Procs()
	if err != nil {
		return nil, err
	}
	if err := t.refuseSleep(pids, closeConnections); err != nil {
		return nil, err
	}
	// No word of this life may reach keeper or sproutd later than what is asked now.
	t.takeOver(ctx, l)
	if t.kept, err = t.keep(pids); err != nil {
		return nil, err
	}
	resp, err := t.askSleep(ctx)
	if err != nil {
		return nil, err
	}
	if err := t.commitSleep(l); err != nil {
		return nil, err
	}
	t.endLife(ctx, l)
	return resp, nil
}

// refuseSleep says why the task cannot sleep, as far as it is known here. What CRIU cannot dump it says itself.
func (t *wokenTask) refuseSleep(pids []int, closeConnections bool) error {
	t.mu.Lock()
	execs := len(t.execs)
	t.mu.Unlock()
	for _, e := range t.processes() {
		if !e.ExitedAt().IsZero() {
			execs--
		}
	}
	if execs > 0 {
		return seedpool.Refuse(seedpool.ReasonExecs, errdefs.ErrFailedPrecondition, "%d processes were added to it", execs)
	}
	if closeConnections {
		return nil
	}
	open, err := bake.OpenConnection(pids)
	if err != nil {
		return err
	}
	if open != "" {
		return seedpool.Refuse(seedpool.ReasonConnections, errdefs.ErrFailedPrecondition, "%s", open)
	}
	return nil
}

// keep holds what would go with the processes.
func (t *wokenTask) keep(pids []int) (k *kept, err error) {
	k = new(kept)
	if t.made.req.netns == "" {
		k.netns, err = linux.NSFile(int(t.pid()), "net")
	}
	if err == nil {
		k.streams, err = t.streams.hold(pids)
	}
	if err != nil {
		k.close()
		return nil, err
	}
	return k, nil
}

// askSleep has sproutd and the keeper make the image.
func (t *wokenTask) askSleep(ctx context.Context) (*api.SleepResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, sleepTimeout)
	defer cancel()
	client, err := seedpool.Dial(ctx, t.tasks.paths.APISocket())
	if err != nil {
		return nil, seedpool.Refuse(seedpool.ReasonSproutdDown, errdefs.ErrUnavailable, "%w", err)
	}
	defer client.Close()
	mounts, err := t.made.lateMounts()
	if err != nil {
		return nil, err
	}
	data, err := json.Marshal(mounts)
	if err != nil {
		return nil, err
	}
	ask := &api.SleepRequest{Instance: t.now().instance.Id, Cgroup: t.cgroup.Path, Mounts: data, Joins: t.made.req.joined() != ""}
	for n, f := range t.kept.streams {
		name := ""
		if f != nil {
			name = t.streams.pipes[n]
		}
		ask.Streams = append(ask.Streams, name)
	}
	resp, err := client.Pool.Sleep(ctx, ask)
	if err != nil {
		return nil, native(err)
	}
	return resp, nil
}

// commitSleep decides that the task sleeps, unless it was killed meanwhile.
func (t *wokenTask) commitSleep(l *life) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if l.killed || t.gone {
		return fmt.Errorf("it was killed: %w", errdefs.ErrFailedPrecondition)
	}
	l.slept, t.phase = true, phaseAsleep
	return nil
}

// endLife ends the processes, which are frozen and on disk, and returns when nothing of them is left. They end with their pid namespace: of a cgroup that was killed the
// kernel ends everything that is ever cloned into it (remakeCgroup).
func (t *wokenTask) endLife(ctx context.Context, l *life) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := l.pidfd.Signal(sigkill)
	if ended(err) {
		err = nil
	}
	if err = errors.Join(err, l.pidfd.Wait(ctx), t.cgroup.WaitEmpty(ctx)); err != nil {
		// It sleeps nevertheless: who wakes it ends what is left.
		log.G(ctx).WithError(err).WithField("id", t.id).Error("end processes of sleeping task")
	}
}

// disturb does to a sleeping task what a signal demands: it is ended, or woken to take it. One that is about to sleep or to wake is
// waited for. done: nothing is left to be signalled.
func (t *wokenTask) disturb(ctx context.Context, sig os.Signal) (done bool, err error) {
	t.op.Lock()
	defer t.op.Unlock()
	switch {
	case t.phaseNow() != phaseAsleep:
		return false, nil
	case sig == sigkill:
		t.endAsleep(ctx)
		return true, nil
	}
	_, err = t.wakeUp(ctx)
	return false, err
}

// endAsleep is the exit of a task that is killed in its sleep. The image goes with the task.
func (t *wokenTask) endAsleep(ctx context.Context) {
	t.mu.Lock()
	t.gone = true
	t.mu.Unlock()
	t.kept.close()
	t.kept = nil
	t.streams.drain(ctx, drainBeforeExit)
	t.stopped(ctx, exit{Status: 128 + uint32(sigkill), At: time.Now()})
}
