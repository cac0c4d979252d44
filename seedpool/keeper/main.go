package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Main is the keeper process: it returns when the keeper was retired and its last instance has ended. It must have been started by Spawn.
func Main(ctx context.Context, c Config) error {
	starter := os.NewFile(readyFD, "ready")
	err := serve(ctx, c, func() {
		_, _ = starter.WriteString(ready)
		_ = starter.Close()
	})
	if err != nil {
		_, _ = starter.WriteString(err.Error())
	}
	return err
}

func serve(ctx context.Context, c Config, ready func()) error {
	lock, err := linux.Lock(c.Socket + ".lock")
	if err != nil {
		return fmt.Errorf("serve seed %s: %w", c.Seed, err)
	}
	defer lock.Close()
	if err := prepare(c); err != nil {
		return err
	}
	listener, err := listen(c.Socket)
	if err != nil {
		return err
	}
	door, err := os.Stat(c.Socket)
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	s := newServer(c)
	rpc, err := ttrpc.NewServer(ttrpc.WithServerHandshaker(ttrpc.UnixSocketRequireSameUser()))
	if err != nil {
		return errors.Join(err, listener.Close())
	}
	api.RegisterKeeperService(rpc, s)
	served := make(chan error, 1)
	go func() { served <- rpc.Serve(ctx, listener) }()
	ready()
	log.G(ctx).WithField("seed", c.Seed).Info("keeper serves")
	go retireWithout(ctx, s, c.Socket, door)
	select {
	case <-s.over:
		// The answer to Retire is on its way: the server ends when its calls have.
		err = rpc.Shutdown(ctx)
	case err = <-served:
	}
	if errors.Is(err, ttrpc.ErrServerClosed) {
		err = nil
	}
	err = errors.Join(err, s.templates.end())
	if !isFile(c.Socket+".lock", lock) {
		return err // all that has the names is another keeper's by now
	}
	return errors.Join(err, clean(c))
}

// lookAgain is how often a keeper looks whether it can still be found.
const lookAgain = 2 * time.Second

// retireWithout retires a keeper whose socket was removed or replaced: nobody will ever ask it for anything again.
func retireWithout(ctx context.Context, s *server, socket string, door os.FileInfo) {
	again := time.NewTicker(lookAgain)
	defer again.Stop()
	for isSame(socket, door) {
		select {
		case <-again.C:
		case <-s.over:
			return
		}
	}
	log.G(ctx).WithField("seed", s.config.Seed).Warn("keeper has lost its socket: it ends with its last instance")
	s.retire()
}

// isFile says whether a path leads to an open file.
func isFile(path string, f *os.File) bool {
	info, err := f.Stat()
	return err == nil && isSame(path, info)
}

// isSame says whether a path still leads to the file that it led to.
func isSame(path string, door os.FileInfo) bool {
	now, err := os.Stat(path)
	return err == nil && os.SameFile(now, door)
}

// prepare makes the mount namespace, which Spawn has made our own, fit for CRIU. What is booted becomes a child of ours when runc lets go of it.
func prepare(c Config) error {
	if c.Merge {
		if err := linux.OfferMemory(); err != nil {
			return err
		}
	}
	if c.boots() {
		return linux.AdoptOrphans()
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return err
	}
	if hosts, err := os.Readlink("/proc/1/ns/mnt"); err == nil && own == hosts {
		return errors.New("a keeper needs a mount namespace of its own: sproutd starts it")
	}
	if err := linux.FollowMounts(); err != nil {
		return err
	}
	dir := c.Socket + ".d"
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := restore.Isolate(dir); err != nil {
		return err
	}
	return c.CRIU.Warm()
}

// listen takes the socket's place: what lies there is of a keeper that was killed, because we hold the lock.
func listen(socket string) (net.Listener, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := linux.ListenForOwnUsers(socket)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	return l, nil
}

// clean removes what the keeper has made beside its socket.
func clean(c Config) error {
	var errs []error
	for _, path := range []string{c.Socket, c.Socket + ".log"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if c.boots() {
		return errors.Join(append(errs, os.Remove(c.Socket+".lock"))...)
	}
	// Mounts below the directory are in our namespace alone; what others see is an empty tree.
	for _, path := range []string{filepath.Join(c.Socket+".d", "run")} {
		errs = append(errs, linux.Unmount(path))
	}
	errs = append(errs, linux.Unmount("/proc/sys/fs/nr_open"), os.RemoveAll(c.Socket+".d"), os.Remove(c.Socket+".lock"))
	return errors.Join(errs...)
}
