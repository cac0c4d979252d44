package seedpool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// makeTimeout bounds one restore for a spare: ten times what the largest image here takes.
	makeTimeout = 2 * time.Minute
	// undoTimeout bounds the removal of an instance; what is left then is removed by a later look.
	undoTimeout = 20 * time.Second
)

// spareCgroup is where an instance lives until a container claims it.
func (p *Pool) spareCgroup(instance string) linux.Cgroup {
	return linux.Cgroup{Path: path.Join(p.spares().Path, instance)}
}

// make has the seed's keeper make an instance. Its row is there already; on an error the caller destroys it.
func (p *Pool) make(ctx context.Context, s *seed, i *instance, overlay []string, where place) (*api.MakeResponse, error) {
	from, err := p.load(ctx, s)
	if err != nil {
		return nil, err
	}
	dir := p.paths.InstanceDir(i.id)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	// For whoever looks at the directory; and a disk that is full says so here, not somewhere in CRIU.
	if err := os.WriteFile(filepath.Join(dir, "seed"), []byte(s.id+"\n"), 0o600); err != nil {
		return nil, err
	}
	p.point("instance begun")
	r := &api.MakeRequest{
		Id: i.id, Images: from.images, Overlay: overlay, Cgroup: where.cgroup, Netns: where.netns, Ipcns: where.ipcns, Utsns: where.utsns,
		Spec: from.spec, Dir: dir, StdioKeys: from.meta.StdioKeys,
		Shared: p.config.Restore.shares(from.meta.Info.ImageBytes), AtOnce: p.rowOf(i).Restored,
	}
	var made *api.MakeResponse
	switch {
	case s.booted:
		made, err = p.bootSpare(ctx, from, r)
	case where.fork:
		made, err = p.fork(ctx, s, from.keeper, r)
	case r.AtOnce:
		made, err = from.keeper.make(ctx, r)
	default:
		made, err = p.forkOrRestore(ctx, s, from.keeper, r)
	}
	if err != nil {
		return nil, p.explain(err)
	}
	p.point("instance made")
	p.noteUse(s, made)
	made.Instance.Id, made.Instance.Seed = i.id, s.id
	made.Instance.Keeper = p.paths.KeeperSocket(s.id)
	return made, nil
}

// noteUse notes that an instance was made.
func (p *Pool) noteUse(s *seed, made *api.MakeResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s.served = time.Now()
	s.hot = s.hot || made.Instance.Memory != ""
}

// explain tells a full disk from other reasons for a failed restore: CRIU's own error is often another one.
func (p *Pool) explain(err error) error {
	if errors.Is(err, errdefs.ErrResourceExhausted) {
		return refuse(ReasonDiskFull, err)
	}
	for _, dir := range []string{p.paths.InstancesDir(), p.paths.StateDir} {
		if probe := canWrite(dir); errors.Is(probe, syscall.ENOSPC) || errors.Is(probe, syscall.EDQUOT) {
			return refuse(ReasonDiskFull, fail(errdefs.ErrResourceExhausted, "%w (%w)", err, probe))
		}
	}
	return err
}

// canWrite tries to put a page into a new file of a directory.
func canWrite(dir string) error {
	f, err := os.CreateTemp(dir, ".probe-")
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 4096))
	return errors.Join(err, f.Close(), os.Remove(f.Name()))
}

// snapshotFate is what becomes of the container's snapshot when an instance that was made for it is destroyed.
type snapshotFate int

const (
	// fateKeep: it is the container's, as it is.
	fateKeep snapshotFate = iota
	// fatePlain: the container may run on it without us; only our label goes.
	fatePlain
	// fateRenew: the shim waits for us and starts cold afterwards; the snapshot is made as it was.
	fateRenew
)

// answerMargin is what must be left of the caller's deadline when a container's snapshot is changed: a shim that has given up may be starting cold on it.
const answerMargin = 200 * time.Millisecond

// waitsFor says whether the caller still waits for the answer, and will for as long as it takes to change a snapshot.
func waitsFor(ctx context.Context) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) > answerMargin)
}

// destroy ends an instance and removes all that is left of it, in this order: process, cgroup, snapshot, image, directory, row. After an error the row stays in phase
// dying, and destroy may be called again. asked is the context of the request that wants it: its end does not shorten the work, but then nobody waits any more,
// and the container's snapshot is left as it is.
func (p *Pool) destroy(asked context.Context, i *instance, fate snapshotFate) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(asked), undoTimeout)
	defer cancel()
	i.end.Lock()
	defer i.end.Unlock()
	p.mu.Lock()
	if p.instances[i.id] == nil {
		p.mu.Unlock()
		return nil // another caller was faster
	}
	row := i.row
	var err error
	if i.phase() != phaseDying {
		err = p.changeLocked(i, phaseDying, nil)
	}
	p.mu.Unlock()
	if err != nil {
		return fmt.Errorf("destroy instance: %w", err)
	}
	p.point("instance dying")
	if err := p.kill(ctx, row); err != nil {
		return fmt.Errorf("kill instance %s: %w", i.id, err)
	}
	if err := removeCgroup(ctx, p.spareCgroup(i.id)); err != nil {
		return fmt.Errorf("remove cgroup of instance %s: %w", i.id, err)
	}
	if fate == fateRenew && !waitsFor(asked) {
		fate = fatePlain
	}
	if err := p.freeSnapshot(ctx, row, fate); err != nil {
		return fmt.Errorf("free snapshot of instance %s: %w", i.id, err)
	}
	if err := p.removeImage(i); err != nil {
		return fmt.Errorf("remove image of instance %s: %w", i.id, err)
	}
	if err := p.releaseKeeper(ctx, i.seed); err != nil {
		return fmt.Errorf("retire keeper of instance %s: %w", i.id, err)
	}
	if err := os.RemoveAll(p.paths.InstanceDir(i.id)); err != nil {
		return fmt.Errorf("remove directory of instance %s: %w", i.id, err)
	}
	p.point("instance removed")
	return p.forget(i)
}

// destroyAlone is destroy for callers that are not at work for the instance's container: a request that is comes first.
func (p *Pool) destroyAlone(ctx context.Context, i *instance, fate snapshotFate) error {
	if row := p.rowOf(i); row.Container != "" {
		unlock, err := p.lockContainer(ctx, row.Namespace, row.Container)
		if err != nil {
			return err
		}
		defer unlock()
	}
	return p.destroy(ctx, i, fate)
}

// forget removes the row of an instance of which nothing else is left.
func (p *Pool) forget(i *instance) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err := p.store.deleteInstance(i.id); err != nil {
		return err
	}
	delete(p.instances, i.id)
	return nil
}

// kill ends the instance's processes: by hand, wherever they have been moved, and then by its keeper, which may still be at work on it and waits until it is
// reaped.
func (p *Pool) kill(ctx context.Context, row *api.InstanceRow) error {
	if err := killProcess(ctx, int(row.Instance.Pid), row.Instance.StartTime); err != nil {
		return err
	}
	k, err := p.keepers.find(ctx, row.Instance.Seed)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err == nil {
		_, err = k.Kill(ctx, &api.InstanceRef{Id: row.Instance.Id})
	}
	if errors.Is(err, ttrpc.ErrClosed) {
		// A retired keeper ends with its last instance, perhaps before it has answered; one that was killed is at work on nothing.
		return nil
	}
	return errgrpc.ToNative(err)
}

// killProcess ends a process, and with it the pid namespace whose first it is, and returns when it is gone.
func killProcess(ctx context.Context, pid int, start uint64) error {
	if pid == 0 || !linux.Alive(pid, start) {
		return nil
	}
	pidfd, err := linux.OpenPidfd(pid)
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer pidfd.Close()
	if !linux.Alive(pid, start) { // the number went to another process in between
		return nil
	}
	if err := pidfd.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return pidfd.Wait(ctx)
}

// removeCgroup ends what is in a cgroup and removes it.
func removeCgroup(ctx context.Context, c linux.Cgroup) error {
	if err := c.Kill(); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := c.WaitEmpty(ctx); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return c.Remove()
}

// freeSnapshot removes the spare's own snapshot, and undoes what was done to the container's, unless another instance has been made for the container
// since: then the snapshot is that one's.
func (p *Pool) freeSnapshot(ctx context.Context, row *api.InstanceRow, fate snapshotFate) error {
	if !row.Restored {
		if err := p.rootfs.RemoveSpare(ctx, row.Instance.Id); err != nil {
			return err
		}
	}
	if fate == fateKeep || row.Upperdir == "" || p.othersOn(row) {
		return nil
	}
	undo := p.rootfs.Plain
	if fate == fateRenew {
		undo = p.rootfs.Renew
	}
	if err := undo(ctx, row.Upperdir); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	return nil
}

// othersOn says whether another living instance has been made for the same snapshot.
func (p *Pool) othersOn(row *api.InstanceRow) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, other := range p.instances {
		if other.id != row.Instance.Id && other.row.Upperdir == row.Upperdir && other.phase() != phaseDying {
			return true
		}
	}
	return false
}

// destroyOrLog is destroy where nobody can be told: what is left over is tried again later.
func (p *Pool) destroyOrLog(ctx context.Context, i *instance, fate snapshotFate) {
	if err := p.destroy(ctx, i, fate); err != nil {
		log.G(ctx).WithError(err).WithField("id", i.id).Warn("destroy instance")
	}
}

// dropLater destroys spares without keeping the caller. One that has been claimed in the meantime is left alone.
func (p *Pool) dropLater(spares []*instance) {
	dropped := false
	for _, i := range spares {
		p.mu.Lock()
		ready := i.phase() == phaseReady
		var err error
		if ready {
			err = p.changeLocked(i, phaseDying, nil)
		}
		p.mu.Unlock()
		if err != nil {
			log.G(p.life).WithError(err).WithField("id", i.id).Warn("drop spare")
		}
		if ready && err == nil {
			dropped = true
			p.tasks.Go(func() { p.destroyOrLog(p.life, i, fatePlain) })
		}
	}
	if dropped {
		p.stir()
	}
}
