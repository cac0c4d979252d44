package shim

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// How long sproutd may take for an answer before the start goes on without it.
const (
	lookupTimeout  = time.Second
	claimTimeout   = 2 * time.Second
	restoreTimeout = 30 * time.Second
	undoTimeout    = 10 * time.Second
	// takeOverDelay leaves the cores to the start, which most likely is over before.
	takeOverDelay = 50 * time.Millisecond
	// takeOverTimeout bounds what goes on behind the client's back.
	takeOverTimeout = 5 * time.Second
)

// wake is one CreateTask under way: what was asked, and where the answer to it is noted.
type wake struct {
	tasks   *wokenTasks
	ns      string
	ask     *taskAPI.CreateTaskRequest
	options *options.Options
	bundle  *bundle
	spec    *specs.Spec
	req     request
	record  *startRecord
	pool    api.PoolService
	seed    *api.SeedInfo
	// reserved is the instance that was taken or made ahead for this request; nil: none was.
	reserved *reservation
}

// create tries to wake the container. It returns the answer for containerd, or none when the container must start cold: the record
// then holds why, and the caller goes on with it. An error ends the start: no rung could do better.
func (s *wokenTasks) create(ctx context.Context, r *taskAPI.CreateTaskRequest) (*taskAPI.CreateTaskResponse, *startRecord, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return nil, nil, errgrpc.ToGRPC(err)
	}
	record := newStartRecord(s.paths, ns, r.ID)
	record.start.ShimAddress = s.params.Address
	defer record.spend("create")()
	w := &wake{tasks: s, ns: ns, ask: r, record: record}
	if err := w.read(); err != nil {
		w.tasks.ahead.reservation(r.ID).drop(ctx)
		// runc reads the same and says it in words that its users know.
		record.pass(step{seedpool.RungThaw, seedpool.ReasonKeyFailed, err.Error()})
		record.pass(step{seedpool.RungRestore, seedpool.ReasonKeyFailed, err.Error()})
		record.reached(seedpool.RungCold, nil)
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
	time.AfterFunc(takeOverDelay, func() { task.takeOver(ctx, task.now()) })
	go task.watch(ctx, task.now())
	return &taskAPI.CreateTaskResponse{Pid: task.pid()}, record, nil
}

// down goes down the rungs of the plan until one works. This is where `start` becomes `thaw`. A nil task: cold is next.
func (w *wake) down(ctx context.Context) (*wokenTask, error) {
	found, client := w.lookup(ctx)
	if client != nil {
		defer client.Close()
		w.pool = client.Pool
	}
	busy := false
	for _, step := range plan(w.req, found) {
		if busy && step.reason == "" && step.rung != seedpool.RungCold {
			step.pass(seedpool.ReasonBusy, "") // it has waited once
		}
		if step.reason != "" {
			w.record.pass(step)
			continue
		}
		failed := w.record.try(step.rung)
		var task *wokenTask
		var err error
		switch step.rung {
		case seedpool.RungThaw:
			task, err = w.attempt(ctx, step.rung, (*attempt).thaw)
		case seedpool.RungFork:
			task, err = w.attempt(ctx, step.rung, (*attempt).fork)
		case seedpool.RungRestore:
			task, err = w.attempt(ctx, step.rung, (*attempt).restore)
		case seedpool.RungCold:
			w.record.reached(seedpool.RungCold, nil)
			return nil, ctx.Err()
		}
		if err == nil {
			w.record.reached(step.rung, w.seed)
			return task, nil
		}
		reason := reasonOf(step.rung, err)
		failed(reason, err)
		busy = busy || reason == seedpool.ReasonBusy
		log.G(ctx).WithError(err).WithFields(log.Fields{"id": w.ask.ID, "rung": step.rung, "reason": reason}).Warn("fall back")
	}
	return nil, ctx.Err()
}

// lookup asks sproutd what it has for the container. Whatever goes wrong is a reason to start cold, in the answer's Reason.
func (w *wake) lookup(ctx context.Context) (*api.LookupResponse, *seedpool.Client) {
	if reason, _ := w.req.refusal(); reason != "" {
		w.tasks.ahead.reservation(w.ask.ID).drop(ctx)
		return nil, nil
	}
	if r := w.reservation(ctx); r != nil {
		w.reserved, w.seed = r, r.seed
		return r.found, r.client
	}
	defer w.record.time("lookup")()
	client, err := w.tasks.ahead.dial(ctx, w.tasks.paths)
	if err != nil {
		return &api.LookupResponse{Reason: string(seedpool.ReasonSproutdDown)}, nil
	}
	w.pool = client.Pool
	found, err := w.find(ctx)
	if err != nil {
		log.G(ctx).WithError(err).Debug("look up seed")
		return &api.LookupResponse{Reason: string(seedpool.ReasonSproutdDown)}, client
	}
	w.seed = found.Seed
	return found, client
}

// find asks sproutd what it has for the container.
func (w *wake) find(ctx context.Context) (*api.LookupResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return w.pool.Lookup(ctx, &api.LookupRequest{Namespace: w.ns, Id: w.ask.ID, Key: w.bundle.key, Upperdir: w.req.upperdir})
}

// read takes from the bundle and the request all that the start needs to know.
func (w *wake) read() (err error) {
	defer w.record.time("read")()
	if w.bundle, err = w.tasks.ahead.bundle(w.ask.Bundle, w.ask.ID); err != nil {
		return err
	}
	w.spec = w.bundle.spec
	w.options = &options.Options{}
	if w.ask.Options.GetValue() != nil {
		if err := typeurl.UnmarshalTo(w.ask.Options, w.options); err != nil {
			return fmt.Errorf("decode runtime options: %w", err)
		}
	}
	w.req = request{terminal: w.ask.Terminal, checkpoint: w.ask.Checkpoint != "", systemd: w.options.SystemdCgroup}
	w.req.readNamespaces(w.spec)
	w.record.annotations = seedpool.OwnAnnotations(w.spec)
	if w.bundle.keyErr != nil {
		w.req.unkeyed = w.bundle.keyErr.Error()
	}
	root := w.spec.Root.Path
	if len(w.ask.Rootfs) == 1 && w.ask.Rootfs[0].Type == "overlay" && (root == "rootfs" || root == filepath.Join(w.ask.Bundle, "rootfs")) {
		w.req.upperdir = upperOf(w.ask.Rootfs[0].Options)
	}
	return nil
}
