package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// How long sproutd may take for an answer before the start goes on without it.
const (
	lookupTimeout  = 250 * time.Millisecond
	claimTimeout   = 2 * time.Second
	restoreTimeout = 30 * time.Second
	undoTimeout    = 10 * time.Second
	// takeOverTimeout bounds what goes on behind the client's back.
	takeOverTimeout = 5 * time.Second
)

// wake is one CreateTask under way: what was asked, and where the answer to it is noted.
type wake struct {
	tasks   *wokenTasks
	ns      string
	ask     *taskAPI.CreateTaskRequest
	options *options.Options
	spec    *specs.Spec
	req     request
	record  *startRecord
	pool    api.PoolService
	seed    *api.SeedInfo
}

// create tries to wake the container. It returns the answer for containerd, or none when the container must start cold: the record
// then holds why, and the caller goes on with it. An error ends the start: no rung could do better.
func (s *wokenTasks) create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, *startRecord, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, nil, errgrpc.ToGRPC(err)
	}
	record := newStartRecord(s.paths, ns, r.ID)
	defer record.spend("create")()
	w := &wake{tasks: s, ns: ns, ask: r, record: record}
	if err := w.read(); err != nil {
		// runc reads the same and says it in words that its users know.
		record.pass(step{seedpool.RungThaw, seedpool.ReasonKeyFailed, err.Error()})
		record.pass(step{seedpool.RungRestore, seedpool.ReasonKeyFailed, err.Error()})
		record.reached(seedpool.RungCold, "")
		return nil, record, nil
	}
	task, err := w.down(ctx)
	if err != nil {
		return nil, nil, errgrpc.ToGRPC(err)
	}
	if task == nil {
		return nil, record, nil
	}
	s.publish(&eventstypes.TaskCreate{
		ContainerID: r.ID,
		Bundle:      r.Bundle,
		Rootfs:      r.Rootfs,
		IO:          &eventstypes.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
		Checkpoint:  r.Checkpoint,
		Pid:         task.pid(),
	})
	ctx = context.WithoutCancel(ctx)
	go task.takeOver(ctx)
	go task.watch(ctx)
	return &taskAPI.CreateTaskResponse{Pid: task.pid()}, record, nil
}

// down goes down the rungs of the plan until one works. This is where `start` becomes `thaw`. A nil task: cold is next.
func (w *wake) down(ctx context.Context) (*wokenTask, error) {
	if reason, _ := w.req.refusal(); reason == "" {
		prime, stop := context.WithCancel(ctx)
		defer stop()
		go primeMoves(prime)
	}
	found, client := w.lookup(ctx)
	if client != nil {
		defer client.Close()
		w.pool = client.Pool
	}
	for _, step := range plan(w.req, found) {
		if step.reason != "" {
			w.record.pass(step)
			continue
		}
		failed := w.record.try(step.rung)
		var task *wokenTask
		var err error
		switch step.rung {
		case seedpool.RungThaw:
			task, err = w.attempt(ctx, (*attempt).thaw)
		case seedpool.RungRestore:
			task, err = w.attempt(ctx, (*attempt).restore)
		case seedpool.RungCold:
			w.record.reached(seedpool.RungCold, "")
			return nil, ctx.Err()
		}
		if err == nil {
			w.record.reached(step.rung, w.seed.Id)
			return task, nil
		}
		reason := reasonOf(step.rung, err)
		failed(reason, err)
		log.G(ctx).WithError(err).WithFields(log.Fields{"id": w.ask.ID, "rung": step.rung, "reason": reason}).Warn("fall back")
	}
	return nil, ctx.Err()
}

// lookup asks sproutd what it has for the container. Whatever goes wrong is a reason to start cold, in the answer's Reason.
func (w *wake) lookup(ctx context.Context) (*api.LookupResponse, *seedpool.Client) {
	if reason, _ := w.req.refusal(); reason != "" {
		return nil, nil
	}
	stop := w.record.time("key")
	key, err := seedpool.KeyOf(w.spec)
	stop()
	if err != nil {
		return &api.LookupResponse{Reason: string(seedpool.ReasonKeyFailed)}, nil
	}
	defer w.record.time("lookup")()
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	client, err := seedpool.Dial(ctx, w.tasks.paths.APISocket())
	if err != nil {
		return &api.LookupResponse{Reason: string(seedpool.ReasonSproutdDown)}, nil
	}
	found, err := client.Pool.Lookup(ctx, &api.LookupRequest{Namespace: w.ns, Id: w.ask.ID, Key: key, Upperdir: w.req.upperdir})
	if err != nil {
		log.G(ctx).WithError(err).Debug("look up seed")
		return &api.LookupResponse{Reason: string(seedpool.ReasonSproutdDown)}, client
	}
	w.seed = found.Seed
	return found, client
}

// read takes from the bundle and the request all that the start needs to know.
func (w *wake) read() error {
	data, err := os.ReadFile(filepath.Join(w.ask.Bundle, "config.json"))
	if err != nil {
		return err
	}
	w.spec = &specs.Spec{}
	if err := json.Unmarshal(data, w.spec); err != nil {
		return fmt.Errorf("decode config.json: %w", err)
	}
	if w.spec.Linux == nil || w.spec.Process == nil || w.spec.Root == nil {
		return errors.New("decode config.json: linux, process or root is missing")
	}
	w.options = &options.Options{}
	if w.ask.Options.GetValue() != nil {
		if err := typeurl.UnmarshalTo(w.ask.Options, w.options); err != nil {
			return fmt.Errorf("decode runtime options: %w", err)
		}
	}
	w.req = request{terminal: w.ask.Terminal, checkpoint: w.ask.Checkpoint != "", systemd: w.options.SystemdCgroup}
	w.req.readNamespaces(w.spec)
	root := w.spec.Root.Path
	if len(w.ask.Rootfs) == 1 && w.ask.Rootfs[0].Type == "overlay" && (root == "rootfs" || root == filepath.Join(w.ask.Bundle, "rootfs")) {
		w.req.upperdir = upperOf(w.ask.Rootfs[0].Options)
	}
	return nil
}

// attempt is one rung being tried. What it has made is undone in reverse order when a later step fails.
type attempt struct {
	*wake
	identity
	undo []func(context.Context) error
}

// attempt tries one rung: make yields a bound instance, or leaves nothing behind.
func (w *wake) attempt(ctx context.Context, makeInstance func(*attempt, context.Context) error) (*wokenTask, error) {
	a := &attempt{wake: w}
	err := makeInstance(a, ctx)
	if err == nil {
		err = a.bind(ctx)
	}
	if err == nil {
		return a.task(), nil
	}
	if a.instance != nil && !linux.Alive(int(a.instance.Pid), a.instance.StartTime) {
		err = &diedError{instance: a.instance.Id, err: err}
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout)
	defer cancel()
	for _, undo := range slices.Backward(a.undo) {
		if uerr := undo(ctx); uerr != nil {
			log.G(ctx).WithError(uerr).WithField("id", w.ask.ID).Warn("undo failed start")
		}
	}
	return nil, err
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

// claim takes a spare from the pool.
func (a *attempt) claim(ctx context.Context) (*api.Instance, error) {
	defer a.record.time("claim")()
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	got, err := a.pool.Claim(ctx, &api.ClaimRequest{
		Namespace: a.ns, Id: a.ask.ID, Seed: a.seed.Id, Upperdir: a.req.upperdir, ShimPid: uint32(os.Getpid()),
	})
	if err != nil {
		return nil, fmt.Errorf("claim spare of seed %s: %w", a.seed.Name, native(err))
	}
	return got.Instance, nil
}

// restore has an instance made in the container's own cgroup, which is frozen so that it runs nothing yet.
func (a *attempt) restore(ctx context.Context) error {
	if err := a.timed("cgroup", a.makeCgroup); err != nil {
		return err
	}
	stop := a.record.time("restore")
	defer stop()
	restore, cancel := context.WithTimeout(ctx, restoreTimeout)
	got, err := a.pool.Restore(restore, &api.RestoreRequest{
		Namespace: a.ns, Id: a.ask.ID, Seed: a.seed.Id, Upperdir: a.req.upperdir, Cgroup: a.cgroup.Path, Netns: a.req.joins(),
		ShimPid: uint32(os.Getpid()),
	})
	cancel()
	if err != nil {
		return fmt.Errorf("restore seed %s: %w", a.seed.Name, native(err))
	}
	for _, p := range got.Phases {
		a.record.add(&api.Phase{Name: "restore." + p.Name, Nanoseconds: p.Nanoseconds})
	}
	return a.own(got.Instance)
}

// own holds on to an instance: from here on a failure gives it back to be removed.
func (a *attempt) own(inst *api.Instance) error {
	a.instance = inst
	a.undo = append(a.undo, func(ctx context.Context) error {
		_, err := a.pool.Discard(ctx, &api.DiscardRequest{Instance: inst.Id, Reason: string(seedpool.ReasonBindFailed)})
		return err
	})
	pidfd, err := linux.OpenPidfd(int(inst.Pid))
	if err != nil {
		return fmt.Errorf("open instance %s: %w", inst.Id, err)
	}
	a.undo = append(a.undo, func(context.Context) error { return pidfd.Close() })
	a.pidfd = pidfd
	if !linux.Alive(int(inst.Pid), inst.StartTime) {
		return fmt.Errorf("open instance %s: process %d: %w", inst.Id, inst.Pid, os.ErrProcessDone)
	}
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
	if _, ok := errors.AsType[*bindError](err); ok {
		return seedpool.ReasonBindFailed
	}
	if reason, ok := seedpool.ReasonOf(err); ok {
		return reason
	}
	switch {
	case errors.Is(err, ttrpc.ErrClosed):
		return seedpool.ReasonSproutdDown
	case rung == seedpool.RungThaw:
		return seedpool.ReasonClaimFailed
	}
	return seedpool.ReasonRestoreFailed
}
