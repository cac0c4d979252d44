package shim

import (
	"context"
	"os"
	"strings"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// reservation is a spare that was taken for a container before its CreateTask came, and is, or soon will be, frozen in the container's cgroup. All that needs the request is
// still to be done: its files, mounts and streams. It is a start's, or it is dropped.
type reservation struct {
	*attempt
	client *seedpool.Client
	// moved waits until the spare is in the container's cgroup.
	moved func() error
}

// reserve takes a spare for a container that will be created from the bundle that was read ahead, if a spare is what it will be woken from. nil: the start finds its way
// alone.
func (s *wokenTasks) reserve(ctx context.Context, a *ahead) *reservation {
	b := a.read
	if b == nil || b.keyErr != nil || b.cgroupErr != nil {
		return nil
	}
	req := foresee(b.spec)
	if first := plan(req, &api.LookupResponse{Seed: &api.SeedInfo{}, Spares: 1})[0]; first.reason != "" {
		return nil
	}
	client, err := seedpool.Dial(ctx, s.paths.APISocket())
	if err != nil {
		return nil
	}
	w := &wake{
		tasks: s, ns: s.params.Namespace, ask: &taskAPI.CreateTaskRequest{ID: a.id, Bundle: a.dir}, bundle: b, spec: b.spec, req: req,
		record: newStartRecord(s.paths, s.params.Namespace, a.id), pool: client.Pool,
	}
	r := &reservation{attempt: &attempt{wake: w}, client: client}
	if err := r.take(ctx); err != nil {
		log.G(ctx).WithError(err).WithField("id", a.id).Debug("reserve spare")
		r.drop(ctx)
		return nil
	}
	return r
}

// foresee is what will be asked for a container, as far as its spec says.
func foresee(spec *specs.Spec) request {
	req := request{terminal: spec.Process.Terminal, upperdir: "later"}
	// The other cgroup driver is an option of the request. It has paths of its own kind: slice:prefix:name.
	req.systemd = strings.Count(spec.Linux.CgroupsPath, ":") == 2
	req.readNamespaces(spec)
	return req
}

// take takes the spare, and begins to move it into the container's cgroup.
func (r *reservation) take(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	got, err := r.pool.Reserve(ctx, &api.ReserveRequest{Namespace: r.ns, Id: r.ask.ID, Key: r.bundle.key, ShimPid: uint32(os.Getpid())})
	if err != nil {
		return native(err)
	}
	r.seed = got.Seed
	if err := r.own(got.Instance); err != nil {
		return err
	}
	r.moved = beside(func() error {
		if err := r.makeCgroup(); err != nil {
			return err
		}
		return r.moveIn()
	})
	return nil
}

// drop gives the spare back. There may be none.
func (r *reservation) drop(ctx context.Context) {
	if r == nil {
		return
	}
	if r.moved != nil {
		_ = r.moved() // what came of it is undone
	}
	r.fail(ctx)
	if err := r.client.Close(); err != nil {
		log.G(ctx).WithError(err).Debug("close connection to sproutd")
	}
}

// complete makes the reserved spare this start's: its files become those of the container's snapshot. nil: it was none, or not for this request, and is gone.
func (w *wake) complete(ctx context.Context) *reservation {
	r := w.tasks.ahead.reservation(w.ask.ID)
	if r == nil {
		return nil
	}
	found := &api.LookupResponse{Seed: r.seed, Spares: 1}
	if r.bundle != w.bundle || plan(w.req, found)[0].reason != "" {
		r.drop(ctx)
		return nil
	}
	claim, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	_, err := r.pool.Claim(claim, &api.ClaimRequest{
		Namespace: w.ns, Id: w.ask.ID, Upperdir: w.req.upperdir, ShimPid: uint32(os.Getpid()), Early: true, Reserved: r.instance.Id,
	})
	if err != nil {
		log.G(ctx).WithError(native(err)).WithField("id", w.ask.ID).Debug("complete reservation")
		r.drop(ctx)
		return nil
	}
	return r
}
