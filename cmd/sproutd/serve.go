package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"sync"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/v2/contrib/snapshotservice"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/coreos/go-systemd/v22/daemon"
	"google.golang.org/grpc"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/images"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/snapshotter"
	"github.com/sproutrun/sprout/snapshotter/pages"
)

// stopTimeout bounds how long starts that are under way may keep a sproutd that was asked to end.
const stopTimeout = 10 * time.Second

// garbage is how much of it, in percent of what is in use, may lie before it is collected: that takes a core for a millisecond, most likely from a start, which
// has made it. What is in use are some MB.
const garbage = 400

// serve is the life of the daemon. The snapshotter comes first, since no container of any kind starts without it, and goes last.
func serve(ctx context.Context, c seedpool.Config) (err error) {
	debug.SetGCPercent(garbage)
	paths := c.Paths()
	if err := os.MkdirAll(paths.RunDir, 0o700); err != nil {
		return err
	}
	lock, err := linux.Lock(paths.LockFile())
	if err != nil {
		return fmt.Errorf("take run directory: %w", err)
	}
	defer lock.Close()
	d := &parts{failed: make(chan error, 1)}
	// In the order of their start; they end in the other one.
	for _, part := range []func(context.Context, seedpool.Config) error{d.startSnapshotter, d.startPages, d.startPool, d.startMetrics, d.startShims} {
		if err := part(ctx, c); err != nil {
			return errors.Join(err, d.stop())
		}
	}
	notify(ctx, daemon.SdNotifyReady)
	log.G(ctx).WithFields(log.Fields{"version": seedpool.Version, "run_dir": c.RunDir, "state_dir": c.StateDir}).Info("sproutd serves")
	select {
	case <-ctx.Done():
	case err = <-d.failed:
	}
	notify(ctx, daemon.SdNotifyStopping)
	return errors.Join(err, d.stop())
}

// notify tells systemd, if it has started us.
func notify(ctx context.Context, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.G(ctx).WithError(err).Warn("notify systemd")
	}
}

// parts are what a daemon consists of. stops are run from the last to the first.
type parts struct {
	snapshotter *snapshotter.Snapshotter
	// pages is nil when no seed has ever had pages in it.
	pages   *pages.Store
	pool    *seedpool.Pool
	stops   []func(context.Context) error
	servers sync.WaitGroup
	moves   linux.MovePrimer
	// failed gets the error of a server that ended by itself.
	failed chan error
}

// run serves on a goroutine of its own. A server that ends before it was stopped ends the daemon.
func (d *parts) run(what string, serve func() error) {
	d.servers.Go(func() {
		err := serve()
		if err == nil || errors.Is(err, http.ErrServerClosed) || errors.Is(err, ttrpc.ErrServerClosed) || errors.Is(err, grpc.ErrServerStopped) || errors.Is(err, net.ErrClosed) {
			return
		}
		select {
		case d.failed <- fmt.Errorf("serve %s: %w", what, err):
		default:
		}
	})
}

func (d *parts) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	for n := len(d.stops) - 1; n >= 0; n-- {
		errs = append(errs, d.stops[n](ctx))
	}
	d.servers.Wait()
	return errors.Join(errs...)
}

func (d *parts) onStop(stop func(context.Context) error) { d.stops = append(d.stops, stop) }

func (d *parts) startSnapshotter(_ context.Context, c seedpool.Config) (err error) {
	if d.snapshotter, err = snapshotter.New(c.Paths().SnapshotsDir()); err != nil {
		return err
	}
	d.onStop(func(context.Context) error { return d.snapshotter.Close() })
	d.snapshotter.OnBlocked(func(chainID string) { d.pool.ImageRemoved(chainID) })
	return nil
}

// startPages opens the page store, if seeds are to have their memory there, or some may have. One whose index is damaged is set aside, and its seeds have to be
// baked again: containers start all the same.
func (d *parts) startPages(ctx context.Context, c seedpool.Config) (err error) {
	dir, options := c.Paths().PagesDir(), pages.Options{Quota: uint64(c.Pages.Quota)}
	if _, err := os.Lstat(dir); errors.Is(err, os.ErrNotExist) && !c.Pages.Store {
		return nil
	}
	d.pages, err = pages.Open(dir, options)
	if errdefs.IsDataLoss(err) {
		log.G(ctx).WithError(err).Error("set page store aside")
		aside := dir + ".damaged"
		if err := errors.Join(os.RemoveAll(aside), os.Rename(dir, aside)); err != nil {
			return err
		}
		d.pages, err = pages.Open(dir, options)
	}
	if err != nil {
		return err
	}
	d.onStop(func(context.Context) error { return d.pages.Close() })
	return nil
}

// startPool opens the pool and serves its API, and the snapshotter, which from then on may tell the pool of images that go.
func (d *parts) startPool(ctx context.Context, c seedpool.Config) (err error) {
	var store seedpool.Pages
	if d.pages != nil {
		store = pages.Seeds{Store: d.pages}
	}
	var asked seedpool.Images
	if c.Containerd != "" {
		connection, err := images.Connect(c.Containerd)
		if err != nil {
			return err
		}
		d.onStop(func(context.Context) error { return connection.Close() })
		asked = connection
	}
	if d.pool, err = seedpool.Open(ctx, c, d.snapshotter, store, asked); err != nil {
		return err
	}
	d.onStop(func(context.Context) error { return d.pool.Close() })
	snapshots, err := listen(c.Paths().SnapshotterSocket())
	if err != nil {
		return err
	}
	rpc := grpc.NewServer(grpc.UnaryInterceptor(d.expectStart))
	snapshotsapi.RegisterSnapshotsServer(rpc, snapshotservice.FromSnapshotter(d.snapshotter))
	d.onStop(func(ctx context.Context) error { return stopGRPC(ctx, rpc) })
	d.run("snapshotter", func() error { return rpc.Serve(snapshots) })
	api, err := listen(c.Paths().APISocket())
	if err != nil {
		return err
	}
	server, err := seedpool.NewServer(d.pool)
	if err != nil {
		return errors.Join(err, api.Close())
	}
	d.onStop(server.Shutdown)
	d.run("API", func() error { return server.Serve(context.WithoutCancel(ctx), api) })
	return nil
}

// startTime is how long after its snapshot a container may be started and still find moves between cgroups fast.
const startTime = 100 * time.Millisecond

// prepareMethod is the call that makes a writable snapshot.
const prepareMethod = "/containerd.services.snapshots.v1.Snapshots/Prepare"

// expectStart sees the snapshots that are made: one is the first sign that a container is about to start, 10 ms before a shim knows of it.
func (d *parts) expectStart(ctx context.Context, req any, call *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if call.FullMethod == prepareMethod {
		d.moves.For(startTime)
	}
	return handle(ctx, req)
}

// stopGRPC lets requests finish, within ctx.
func stopGRPC(ctx context.Context, rpc *grpc.Server) error {
	defer context.AfterFunc(ctx, rpc.Stop)()
	rpc.GracefulStop()
	return nil
}

func (d *parts) startMetrics(_ context.Context, c seedpool.Config) error {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", d.pool.MetricsHandler())
	server := &http.Server{Handler: mux, ReadHeaderTimeout: stopTimeout}
	l, err := listen(c.Paths().MetricsSocket())
	if err != nil {
		return err
	}
	d.onStop(server.Shutdown)
	d.run("metrics", func() error { return server.Serve(l) })
	if c.MetricsAddress == "" {
		return nil
	}
	tcp, err := net.Listen("tcp", c.MetricsAddress)
	if err != nil {
		return fmt.Errorf("listen for metrics_address: %w", err)
	}
	d.run("metrics", func() error { return server.Serve(tcp) })
	return nil
}

func (d *parts) startShims(ctx context.Context, c seedpool.Config) error {
	l, err := listen(c.Paths().AssignSocket())
	if err != nil {
		return err
	}
	shims, err := seedpool.NewShims(ctx, c, d.pool.Foresee)
	if err != nil {
		return errors.Join(err, l.Close())
	}
	d.onStop(func(context.Context) error {
		err := l.Close()
		shims.Close()
		return err
	})
	d.run("idle shims", func() error { return shims.Serve(l) })
	return nil
}
