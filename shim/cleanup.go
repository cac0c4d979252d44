package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	shimrunc "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/protobuf"
	"github.com/containerd/containerd/v2/pkg/protobuf/proto"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// leftoverTimeout bounds the waiting for a woken container that was killed; containerd gives the whole of a delete five seconds.
const leftoverTimeout = 2 * time.Second

// Cleanup ends and removes all that is left of a container whose shim is gone, and writes how the container ended to w, as containerd's DeleteResponse.
// namespace, id and bundle name the container.
func Cleanup(ctx context.Context, w io.Writer, namespace, id, bundle string) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	// The runc shim's code looks for the bundle beside the working directory.
	if err := os.Chdir(bundle); err != nil {
		return fmt.Errorf("enter bundle: %w", err)
	}
	if err := endForgotten(ctx, bundle, id); err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("clean up after shim")
	}
	ended, err := manager.NewShimManager(Runtime).Stop(ctx, id)
	if err != nil {
		return fmt.Errorf("clean up container %s: %w", id, err)
	}
	paths := seedpool.PathsFromEnv()
	inst, err := readBoundInstance(bundle)
	switch {
	case err == nil:
		err = inst.remove(ctx, paths, bundle, &ended)
	case errors.Is(err, os.ErrNotExist):
		err = removeCutOff(ctx, bundle, id)
	}
	if err != nil {
		log.G(ctx).WithError(err).WithField("id", id).Warn("clean up container")
	}
	for _, err := range []error{removeDeadSocket(bundle), os.Remove(paths.StartRecord(namespace, id))} {
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			log.G(ctx).WithError(err).WithField("id", id).Warn("clean up after shim")
		}
	}
	data, err := proto.Marshal(&taskAPI.DeleteResponse{
		Pid: uint32(ended.Pid), ExitStatus: uint32(ended.ExitStatus), ExitedAt: protobuf.ToTimestamp(ended.ExitedAt),
	})
	if err != nil {
		return fmt.Errorf("encode exit: %w", err)
	}
	if _, err := w.Write(data); err != nil {
		return fmt.Errorf("print exit: %w", err)
	}
	return nil
}

// removeCutOff removes the cgroup of a container whose shim was killed while it woke it. It is told to freeze from the start; of a cgroup that is not, only what is
// empty is removed: a cold container may share one that its user has named, and runc has removed its own.
func removeCutOff(ctx context.Context, bundle, id string) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	b, err := readBundle(bundle, id)
	if err == nil {
		err = b.cgroupErr
	}
	if err != nil {
		return err
	}
	cgroup := linux.Cgroup{Path: b.cgroup}
	frozen, err := cgroup.IsToFreeze()
	// Where it does not exist in v2, it may have been made in some of v1's hierarchies: the shim, or runc, was killed in between.
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if pids, err := cgroup.Procs(); err != nil || len(pids) > 0 && !frozen {
		return err
	}
	return removeCgroup(ctx, cgroup)
}

func readBoundInstance(bundle string) (*boundInstance, error) {
	data, err := os.ReadFile(filepath.Join(bundle, instanceFileName))
	if err != nil {
		return nil, err
	}
	inst := &boundInstance{}
	if err := json.Unmarshal(data, inst); err != nil {
		return nil, fmt.Errorf("decode %s: %w", instanceFileName, err)
	}
	return inst, nil
}

// remove ends what runc has not ended and removes what it knows nothing of. Where the shim saw no exit, the keeper's word goes into ended.
func (i *boundInstance) remove(ctx context.Context, paths seedpool.Paths, bundle string, ended *shim.StopStatus) error {
	ctx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	cgroup := linux.Cgroup{Path: i.Cgroup}
	err := cgroup.Kill()
	if err == nil {
		err = cgroup.WaitEmpty(ctx)
	}
	if err == nil {
		err = cgroup.Remove()
	}
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	if _, rerr := shimrunc.ReadExitStatus(bundle); rerr != nil {
		i.askKeeper(ctx, ended)
	}
	// By its name, so that nothing else is ever removed.
	dir := paths.InstanceDir(filepath.Base(filepath.Dir(i.ExitFile)))
	return errors.Join(err, removeInstanceDir(dir))
}

// askKeeper waits for the keeper to reap the instance and write how it ended. Without a word from it, the container was killed just now.
func (i *boundInstance) askKeeper(ctx context.Context, ended *shim.StopStatus) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if e, err := readKeeperExit(i.ExitFile); err == nil {
			ended.Pid, ended.ExitStatus, ended.ExitedAt = i.PID, int(e.Status), e.At
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// removeDeadSocket removes the socket that containerd had noted for this container, unless a shim, that of its pod, still listens there.
func removeDeadSocket(bundle string) error {
	data, err := os.ReadFile(filepath.Join(bundle, "bootstrap.json"))
	if err != nil {
		return err
	}
	var noted struct {
		Address string `json:"address"`
	}
	if err := json.Unmarshal(data, &noted); err != nil {
		return fmt.Errorf("decode bootstrap.json: %w", err)
	}
	conn, err := net.Dial("unix", socketPath(noted.Address))
	if err == nil {
		return conn.Close()
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		return err
	}
	return os.Remove(socketPath(noted.Address))
}
