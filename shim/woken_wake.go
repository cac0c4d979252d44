package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	hostcgroups "github.com/containerd/cgroups/v3"
	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// wake has a sleeping task run again.
func (t *wokenTask) wake(ctx context.Context) ([]*api.Phase, error) {
	t.op.Lock()
	defer t.op.Unlock()
	if at := t.phaseNow(); at != phaseAsleep {
		return nil, &phaseError{id: t.id, from: at, to: phaseWaking}
	}
	return t.wakeUp(ctx)
}

// wakeUp makes the processes of a sleeping task again and lets them run. Until they do, whatever fails leaves the task asleep. The caller holds op.
func (t *wokenTask) wakeUp(ctx context.Context) ([]*api.Phase, error) {
	if err := t.move(phaseWaking); err != nil {
		return nil, err
	}
	began := time.Now()
	w := *t.made
	w.record = newStartRecord(t.tasks.paths, t.ns, t.id)
	a := &attempt{wake: &w, rung: seedpool.RungRestore}
	if err := t.rise(ctx, a); err != nil {
		return nil, errors.Join(fmt.Errorf("wake task %s: %w", t.id, err), t.sleepOn(ctx))
	}
	t.tasks.publish(&eventstypes.TaskResumed{ContainerID: t.id})
	err := t.tellWoken(ctx, w.record)
	phases := w.record.phases()
	t.record.rested(nil, phases)
	log.G(ctx).WithError(err).WithFields(log.Fields{"id": t.id, "pid": t.pid(), "ms": time.Since(began).Milliseconds()}).Info("awake")
	return phases, err
}

// sleepOn ends what a wake that failed has made.
func (t *wokenTask) sleepOn(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	err := errors.Join(t.cgroup.Kill(), t.cgroup.WaitEmpty(ctx))
	if err == nil {
		err = t.remakeCgroup()
	}
	return errors.Join(err, t.move(phaseAsleep))
}

// remakeCgroup makes the task's cgroup anew, with the limits that it has now. A process that is cloned into a cgroup which was ever killed is killed, too, if the one that
// clones it is in another: the kernel compares how often each of the two was (cgroup_css_set_fork, seen with Linux 6.18).
func (t *wokenTask) remakeCgroup() error {
	state, err := readRuncState(t.made.runcRoot(), t.id)
	if err != nil {
		return err
	}
	if err := t.cgroup.Remove(); err != nil {
		return err
	}
	t.unwatched = true
	return applyLimits(t.limits, t.cgroup, state.Config.Cgroups.Resources)
}

// rise has the instance made, gives it back what is not in its image, and lets it run.
func (t *wokenTask) rise(ctx context.Context, a *attempt) (err error) {
	a.config, a.limits, a.cgroup, a.streams = t.made.bundle.config, t.limits, t.cgroup, t.streams
	defer func() {
		if err != nil {
			a.fail(ctx)
		}
	}()
	if err := t.makeAgain(ctx, a); err != nil {
		return err
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"hostname", a.setHostname},
		{"sysctl", a.setSysctls},
		{"memory", a.holdMemory},
		{"verify", func(context.Context) error { return a.verifiedAll() }},
		{"identity", func(context.Context) error { return a.told() }},
		{"state", func(context.Context) error { return a.rewriteState() }},
	} {
		if err := a.timed(step.name, func() error { return step.do(ctx) }); err != nil {
			return err
		}
	}
	return t.begin(ctx, a)
}

// makeAgain asks sproutd for the instance.
func (t *wokenTask) makeAgain(ctx context.Context, a *attempt) error {
	defer a.record.time("restore")()
	ctx, cancel := context.WithTimeout(ctx, restoreTimeout)
	defer cancel()
	client, err := seedpool.Dial(ctx, t.tasks.paths.APISocket())
	if err != nil {
		return seedpool.Refuse(seedpool.ReasonSproutdDown, errdefs.ErrUnavailable, "%w", err)
	}
	defer client.Close()
	ask := &api.WakeRequest{
		Instance: t.now().instance.Id, Cgroup: t.cgroup.Path, Netns: t.made.req.netns, Ipcns: t.made.req.ipcns, Utsns: t.made.req.utsns,
	}
	if t.kept.netns != nil {
		ask.Netns = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), t.kept.netns.Fd())
	}
	for _, f := range t.kept.streams {
		path := ""
		if f != nil {
			if path, err = linux.PipePath(f); err != nil {
				return err
			}
		}
		ask.Streams = append(ask.Streams, path)
	}
	got, err := client.Pool.Wake(ctx, ask)
	if err != nil {
		return native(err)
	}
	for _, p := range got.Phases {
		a.record.add(&api.Phase{Name: "restore." + strings.TrimPrefix(p.Name, "restore."), Nanoseconds: p.Nanoseconds})
	}
	return a.look(got.Instance)
}

// begin makes the attempt's instance the task's process, and lets it run.
func (t *wokenTask) begin(ctx context.Context, a *attempt) error {
	was, l := t.now(), newLife(a.identity)
	l.watchedOOM, t.unwatched = !t.unwatched && hostcgroups.Mode() != hostcgroups.Unified, false
	t.current.Store(l)
	err := writeBoundInstance(t.bundle, t)
	if err == nil {
		err = t.signalWaking()
	}
	if err == nil {
		go t.watch(context.WithoutCancel(ctx), l)
		<-l.watched
		err = a.timed("thaw", t.cgroup.Thaw)
	}
	if err != nil {
		t.mu.Lock()
		l.slept = true
		t.mu.Unlock()
		t.current.Store(was)
		return err
	}
	if err := t.move(phaseRunning); err != nil {
		return err
	}
	t.kept.close()
	t.kept = nil
	_ = was.pidfd.Close()
	go t.takeOver(context.WithoutCancel(ctx), l)
	return nil
}
