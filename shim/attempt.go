package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// attempt is one rung being tried. What it has made is undone in reverse order when a later step fails.
type attempt struct {
	*wake
	identity
	// rung is the one that is tried.
	rung seedpool.Rung
	// verified waits for the verdict on the instance's processes, which were looked at since it is this attempt's.
	verified func() error
	// told waits until the instance has been told which one it is.
	told func() error
	// looked are the processes that verified is about.
	looked []int
	// adopted waits until the files of a spare are the container's.
	adopted func() error
	undo    []func(context.Context) error
}

// attempt tries one rung: it yields a bound instance, one that was reserved or that makeInstance makes, or leaves nothing behind.
func (w *wake) attempt(ctx context.Context, rung seedpool.Rung, makeInstance func(*attempt, context.Context) error) (*wokenTask, error) {
	a := &attempt{wake: w, rung: rung}
	var err error
	if w.reserved != nil && w.reserved.rung == rung {
		a.take(w.reserved)
	} else {
		err = makeInstance(a, ctx)
	}
	if err == nil {
		err = a.bind(ctx)
	}
	if err == nil {
		return a.task(), nil
	}
	if a.instance != nil && !linux.Alive(int(a.instance.Pid), a.instance.StartTime) {
		err = &diedError{instance: a.instance.Id, err: err}
	}
	a.fail(ctx)
	return nil, err
}

// fail undoes what the attempt has made.
func (a *attempt) fail(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, undo := range slices.Backward(a.undo) {
		if err := undo(ctx); err != nil {
			log.G(ctx).WithError(err).WithField("id", a.ask.ID).Warn("undo failed start")
		}
	}
}

// thaw claims a spare and moves it into the container's cgroup, which is made meanwhile. It stays frozen as it is.
func (a *attempt) thaw(ctx context.Context) error {
	made := make(chan error, 1)
	go func() { made <- a.makeCgroup() }()
	inst, err := a.claim(ctx)
	// Waited for whatever came of the claim: it adds to what a failure undoes.
	cgroupErr := a.timed("cgroup", func() error { return <-made })
	if err != nil {
		return err
	}
	if err := a.own(inst); err != nil {
		return err
	}
	if cgroupErr != nil {
		return cgroupErr
	}
	return a.timed("move", a.moveIn)
}

// claim takes a spare from the pool, of whichever seed fits when that is not known yet. Its files become the container's while it is bound.
func (a *attempt) claim(ctx context.Context) (*api.Instance, error) {
	defer a.record.time("claim")()
	claim, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	ask := &api.ClaimRequest{Namespace: a.ns, Id: a.ask.ID, Upperdir: a.req.upperdir, ShimPid: uint32(os.Getpid()), Early: true}
	if a.seed != nil {
		ask.Seed = a.seed.Id
	} else {
		ask.Key = a.bundle.key
	}
	got, err := a.pool.Claim(claim, ask)
	if err != nil {
		return nil, fmt.Errorf("claim spare: %w", native(err))
	}
	if a.seed == nil {
		a.seed = got.Seed
	}
	a.adopted = beside(func() error { return a.awaitFiles(ctx, got.Instance) })
	return got.Instance, nil
}

// restore has an instance restored.
func (a *attempt) restore(ctx context.Context) error { return a.make(ctx, seedpool.RungRestore) }

// fork has an instance cloned from the seed's template.
func (a *attempt) fork(ctx context.Context) error { return a.make(ctx, seedpool.RungFork) }

// make has an instance made in the container's own cgroup, which is frozen so that it runs nothing yet.
func (a *attempt) make(ctx context.Context, by seedpool.Rung) error {
	if err := a.timed("cgroup", a.makeCgroup); err != nil {
		return err
	}
	stop := a.record.time(string(by))
	defer stop()
	restore, cancel := context.WithTimeout(ctx, restoreTimeout)
	got, err := a.pool.Restore(restore, &api.RestoreRequest{
		Namespace: a.ns, Id: a.ask.ID, Seed: a.seed.Id, Upperdir: a.req.upperdir, Cgroup: a.cgroup.Path, Netns: a.req.netns,
		Ipcns: a.req.ipcns, Utsns: a.req.utsns,
		ShimPid: uint32(os.Getpid()), Fork: by == seedpool.RungFork,
	})
	cancel()
	if err != nil {
		return fmt.Errorf("%s seed %s: %w", by, a.seed.Name, native(err))
	}
	for _, p := range got.Phases {
		a.record.add(&api.Phase{Name: string(by) + "." + strings.TrimPrefix(p.Name, "fork."), Nanoseconds: p.Nanoseconds})
	}
	if got.Unshared != nil {
		a.record.fellBack(got.Unshared)
	}
	return a.own(got.Instance)
}

// own holds on to an instance: from here on a failure gives it back to be removed.
func (a *attempt) own(inst *api.Instance) error {
	a.instance = inst // for whoever gives it back
	a.undo = append(a.undo, func(ctx context.Context) error {
		_, err := a.pool.Discard(ctx, &api.DiscardRequest{Instance: inst.Id, Reason: string(seedpool.ReasonBindFailed)})
		return err
	})
	return a.look(inst)
}

// look opens an instance's process and begins to look at it.
func (a *attempt) look(inst *api.Instance) error {
	a.instance = inst
	pidfd, err := linux.OpenPidfd(int(inst.Pid))
	if err != nil {
		return fmt.Errorf("open instance %s: %w", inst.Id, err)
	}
	a.undo = append(a.undo, func(context.Context) error { return pidfd.Close() })
	a.pidfd = pidfd
	if !linux.Alive(int(inst.Pid), inst.StartTime) {
		return fmt.Errorf("open instance %s: process %d: %w", inst.Id, inst.Pid, os.ErrProcessDone)
	}
	if a.looked, err = a.processes(inst.Cgroup); err != nil {
		return err
	}
	a.verified, a.told = beside(a.verify), beside(a.tellIdentity)
	// Nothing is written to a process that is given back: its number may be another's then.
	a.undo = append(a.undo, func(context.Context) error { _ = a.told(); return nil })
	return nil
}

// timed runs one step of an attempt as a phase of the record.
func (a *attempt) timed(name string, step func() error) error {
	defer a.record.time(name)()
	if err := step(); err != nil {
		return &bindError{step: name, err: err}
	}
	return nil
}

// bindError says at which step an instance could not be given its identity.
type bindError struct {
	step string
	err  error
}

func (e *bindError) Error() string { return fmt.Sprintf("bind %s: %v", e.step, e.err) }
func (e *bindError) Unwrap() error { return e.err }

// native is an answer of sproutd as an error of this process; a connection that broke is none of its answers.
func native(err error) error {
	if errors.Is(err, ttrpc.ErrClosed) {
		return err
	}
	return errgrpc.ToNative(err)
}

// diedError says that an instance ended before it was bound.
type diedError struct {
	instance string
	err      error
}

func (e *diedError) Error() string { return fmt.Sprintf("instance %s died: %v", e.instance, e.err) }
func (e *diedError) Unwrap() error { return e.err }

// reasonOf is the reason code of a rung that failed.
func reasonOf(rung seedpool.Rung, err error) seedpool.Reason {
	if _, ok := errors.AsType[*diedError](err); ok && rung == seedpool.RungThaw {
		return seedpool.ReasonSpareDied
	}
	if _, ok := errors.AsType[*credsError](err); ok {
		return seedpool.ReasonCredsDiffer
	}
	if reason, ok := seedpool.ReasonOf(err); ok {
		return reason
	}
	if _, ok := errors.AsType[*bindError](err); ok {
		return seedpool.ReasonBindFailed
	}
	switch {
	case errors.Is(err, ttrpc.ErrClosed):
		return seedpool.ReasonSproutdDown
	case rung == seedpool.RungThaw:
		return seedpool.ReasonClaimFailed
	case rung == seedpool.RungFork:
		return seedpool.ReasonForkFailed
	}
	return seedpool.ReasonRestoreFailed
}
