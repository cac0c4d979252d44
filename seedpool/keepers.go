package seedpool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// keepers are the connections to the keepers, one for each seed that has one. Keepers are processes of their own: they outlive sproutd, and the next one finds
// them by their sockets.
type keepers struct {
	paths Paths
	// spawn starts the keeper of a seed, one that boots or, without a boot, one that restores, and returns when its socket answers.
	spawn func(ctx context.Context, seed string, boot *api.Boot) error
	// lost is called, on a goroutine of its own, when the connection to a keeper has ended without our doing.
	lost func(seed string)

	mu   sync.Mutex
	open map[string]*keeperConn // +checklocks:mu
}

// keeperConn is one connection. It is never used again once it has ended.
type keeperConn struct {
	api.KeeperService
	pid int64
	// template: when we connected there was one.
	template bool
	client   *ttrpc.Client
	ended    <-chan struct{}
}

// alive says whether the keeper's end of the connection is there.
func (k *keeperConn) alive() bool {
	select {
	case <-k.ended:
		return false
	default:
		return true
	}
}

// get is the keeper of a seed, started when there is none. Callers of the same seed must not overlap.
func (k *keepers) get(ctx context.Context, seed string, boot *api.Boot) (*keeperConn, error) {
	conn, err := k.find(ctx, seed)
	if err == nil || !errdefs.IsNotFound(err) {
		return conn, err
	}
	if err := k.spawn(ctx, seed, boot); err != nil {
		return nil, fmt.Errorf("start keeper of seed %s: %w", seed, err)
	}
	return k.find(ctx, seed)
}

// current is the connection that is open; nil: none.
func (k *keepers) current(seed string) *keeperConn {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.open[seed]
}

// find connects to the keeper of a seed if it runs; NotFound: it does not.
func (k *keepers) find(ctx context.Context, seed string) (*keeperConn, error) {
	if have := k.current(seed); have != nil && have.alive() {
		return have, nil
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", k.paths.KeeperSocket(seed))
	if err != nil && ctx.Err() == nil {
		return nil, fail(errdefs.ErrNotFound, "connect to keeper of seed %s: %w", seed, err)
	}
	if err != nil {
		return nil, err
	}
	ended := make(chan struct{})
	client := ttrpc.NewClient(conn, ttrpc.WithOnClose(func() {
		close(ended)
		k.gone(seed, ended)
	}))
	found := &keeperConn{KeeperService: api.NewKeeperClient(client), client: client, ended: ended}
	hello, err := found.ListInstances(ctx, &api.Empty{})
	if errors.Is(err, ttrpc.ErrClosed) {
		// It ended between the connection and the question.
		return nil, errors.Join(fail(errdefs.ErrNotFound, "ask keeper of seed %s: %w", seed, err), client.Close())
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("ask keeper of seed %s: %w", seed, errgrpc.ToNative(err)), client.Close())
	}
	found.pid, found.template = hello.Pid, hello.Template
	k.mu.Lock()
	other := k.open[seed]
	if other == nil || !other.alive() {
		k.open[seed] = found
		other = nil
	}
	k.mu.Unlock()
	if other != nil { // another caller was faster
		return other, client.Close()
	}
	return found, nil
}

// gone forgets a connection that has ended; unless we closed it ourselves, the pool is told.
func (k *keepers) gone(seed string, ended <-chan struct{}) {
	k.mu.Lock()
	have := k.open[seed]
	ours := have != nil && have.ended == ended
	if ours {
		delete(k.open, seed)
	}
	k.mu.Unlock()
	if ours {
		k.lost(seed)
	}
}

// retire tells a keeper to end with its last instance, and closes the connection. A keeper that does not run has ended already.
func (k *keepers) retire(ctx context.Context, seed string) error {
	found, err := k.find(ctx, seed)
	if errdefs.IsNotFound(err) {
		return k.sweep(seed)
	}
	if err != nil {
		return err
	}
	_, err = found.Retire(ctx, &api.Empty{})
	if errors.Is(err, ttrpc.ErrClosed) {
		err = nil // it had nothing to wait for, and was faster than its answer
	}
	return errors.Join(errgrpc.ToNative(err), k.drop(seed))
}

// sweep removes what a keeper that was killed has left beside its socket. One that is only about to listen holds its lock: it is left alone.
func (k *keepers) sweep(seed string) error {
	lock, err := linux.Lock(k.paths.KeeperSocket(seed) + ".lock")
	if errors.Is(err, linux.ErrLocked) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	left, err := filepath.Glob(k.paths.KeeperSocket(seed) + "*")
	for _, file := range left {
		err = errors.Join(err, os.RemoveAll(file))
	}
	return err
}

// drop closes the connection to a keeper, which goes on.
func (k *keepers) drop(seed string) error {
	k.mu.Lock()
	have := k.open[seed]
	delete(k.open, seed)
	k.mu.Unlock()
	if have == nil {
		return nil
	}
	return have.client.Close()
}

// close closes all connections.
func (k *keepers) close() error {
	k.mu.Lock()
	open := k.open
	k.open = make(map[string]*keeperConn)
	k.mu.Unlock()
	var errs []error
	for _, have := range open {
		errs = append(errs, have.client.Close())
	}
	return errors.Join(errs...)
}
