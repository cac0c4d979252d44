package shim

import (
	"context"
	"strings"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// reservation is a spare that was claimed for a container before its CreateTask came, and is frozen in the container's cgroup. It is a start's, or it is dropped.
type reservation struct {
	*attempt
	client *seedpool.Client
}

// reserve claims a spare for a container that will be created from the bundle that was read ahead, if a spare is what it will be woken from. nil: the start finds its way
// alone.
func (a *ahead) reserve(ctx context.Context, namespace string, paths seedpool.Paths) *reservation {
	b := a.read
	if a.upperdir == "" || b == nil || b.keyErr != nil || b.cgroupErr != nil {
		return nil
	}
	req := foresee(b.spec, a.upperdir)
	if first := plan(req, &api.LookupResponse{Seed: &api.SeedInfo{}, Spares: 1})[0]; first.reason != "" {
		return nil
	}
	client, err := a.dial(ctx, paths)
	if err != nil {
		return nil
	}
	w := &wake{
		ns: namespace, ask: &taskAPI.CreateTaskRequest{ID: a.id, Bundle: a.dir}, bundle: b, spec: b.spec, req: req,
		record: newStartRecord(paths, namespace, a.id), pool: client.Pool,
	}
	r := &reservation{attempt: &attempt{wake: w}, client: client}
	if err := r.thaw(ctx); err != nil {
		log.G(ctx).WithError(err).WithField("id", a.id).Debug("reserve spare")
		r.drop(ctx)
		return nil
	}
	return r
}

// foresee is what will be asked for a container, as far as its spec says.
func foresee(spec *specs.Spec, upperdir string) request {
	req := request{terminal: spec.Process.Terminal, upperdir: upperdir}
	// The other cgroup driver is an option of the request. It has paths of its own kind: slice:prefix:name.
	req.systemd = strings.Count(spec.Linux.CgroupsPath, ":") == 2
	req.readNamespaces(spec)
	return req
}

// drop gives the spare back. There may be none.
func (r *reservation) drop(ctx context.Context) {
	if r == nil {
		return
	}
	r.fail(ctx)
	if err := r.client.Close(); err != nil {
		log.G(ctx).WithError(err).Debug("close connection to sproutd")
	}
}

// reservation is the spare that was reserved for this start. nil: there was none, or it was not for this request, and is gone.
func (w *wake) reservation(ctx context.Context) *reservation {
	defer w.record.time("reserved")()
	r := w.tasks.ahead.reservation(w.ask.ID)
	if r == nil {
		return nil
	}
	found := &api.LookupResponse{Seed: r.seed, Spares: 1}
	if r.bundle != w.bundle || r.req.upperdir != w.req.upperdir || plan(w.req, found)[0].reason != "" {
		r.drop(ctx)
		return nil
	}
	return r
}
