package shim

import (
	"context"
	"errors"
	"strings"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// reservation is an instance that is a container's before its CreateTask came: a spare that was claimed, or a clone. It is frozen in the container's cgroup, and a start's, or it
// is dropped.
type reservation struct {
	*attempt
	client *seedpool.Client
	// found is sproutd's answer on which it was made.
	found *api.LookupResponse
}

// reserve takes or makes an instance for a container that will be created from the bundle that was read ahead, if how was foreseen. nil: the start finds its way alone.
func (a *ahead) reserve(ctx context.Context, namespace string, paths seedpool.Paths) *reservation {
	b := a.read
	if a.foreseen.Upperdir == "" || b == nil || b.keyErr != nil || b.cgroupErr != nil {
		return nil
	}
	// Of a shim that is killed before containerd has connected to it nobody would clean up what it has made.
	if begin := <-a.begin; !begin {
		return nil
	}
	req := foresee(b.spec, a.foreseen.Upperdir)
	client, err := a.dial(ctx, paths)
	if err != nil {
		return nil
	}
	w := &wake{
		ns: namespace, ask: &taskAPI.CreateTaskRequest{ID: a.id, Bundle: a.dir}, bundle: b, spec: b.spec, req: req,
		record: newStartRecord(paths, namespace, a.id), pool: client.Pool,
	}
	r := &reservation{attempt: &attempt{wake: w, rung: a.foreseen.Rung}, client: client}
	if err := r.try(ctx); err != nil {
		log.G(ctx).WithError(err).WithFields(log.Fields{"id": a.id, "rung": a.foreseen.Rung}).Debug("reserve instance")
		r.drop(ctx)
		return nil
	}
	return r
}

// errNotFirst: a start would begin with another rung than what was foreseen.
var errNotFirst = errors.New("the start will not begin with this rung")

// try tries the rung that was foreseen. A spare is claimed of whichever seed fits; of a template one must know which.
func (r *reservation) try(ctx context.Context) (err error) {
	r.found = &api.LookupResponse{Seed: &api.SeedInfo{}, Spares: 1}
	if r.rung == seedpool.RungFork {
		if r.found, err = r.find(ctx); err != nil {
			return err
		}
		r.seed = r.found.Seed
	}
	switch {
	case first(plan(r.req, r.found)) != r.rung:
		return errNotFirst
	case r.rung == seedpool.RungFork:
		return r.fork(ctx)
	}
	err = r.thaw(ctx)
	r.found.Seed = r.seed
	return err
}

// foresee is what will be asked for a container, as far as its spec says.
func foresee(spec *specs.Spec, upperdir string) request {
	req := request{terminal: spec.Process.Terminal, upperdir: upperdir}
	// The other cgroup driver is an option of the request. It has paths of its own kind: slice:prefix:name.
	req.systemd = strings.Count(spec.Linux.CgroupsPath, ":") == 2
	req.readNamespaces(spec)
	return req
}

// drop gives the instance back. There may be none.
func (r *reservation) drop(ctx context.Context) {
	if r == nil {
		return
	}
	r.fail(ctx)
	if err := r.client.Close(); err != nil {
		log.G(ctx).WithError(err).Debug("close connection to sproutd")
	}
}

// reservation is the instance that was reserved for this start. nil: there was none, or it was not for this request, and is gone.
func (w *wake) reservation(ctx context.Context) *reservation {
	defer w.record.time("reserved")()
	r := w.tasks.ahead.reservation(w.ask.ID)
	if r == nil {
		return nil
	}
	if r.bundle != w.bundle || r.req.upperdir != w.req.upperdir || first(plan(w.req, r.found)) != r.rung {
		r.drop(ctx)
		return nil
	}
	return r
}

// take makes what was reserved this attempt's.
func (a *attempt) take(r *reservation) {
	a.identity, a.verified, a.told, a.looked, a.adopted, a.undo = r.identity, r.verified, r.told, r.looked, r.adopted, r.undo
	a.record.noteAhead(r.record)
}
