package seedpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// sleep writes a bound instance to disk and leaves it frozen. Its row says so before the first byte is there, and that the image is whole when it is. After an error the
// instance runs as before.
func (p *Pool) sleep(ctx context.Context, i *instance, r *api.SleepRequest) (*api.SleepResponse, error) {
	row := p.rowOf(i)
	unlock, err := p.lockContainer(ctx, row.Namespace, row.Container)
	if err != nil {
		return nil, err
	}
	defer unlock()
	row = p.rowOf(i)
	if phase(row.Phase) != phaseBound {
		return nil, fail(errdefs.ErrFailedPrecondition, "instance %s is %s, not bound", i.id, row.Phase)
	}
	if p.isPrestart(i.seed) {
		return nil, refuse(ReasonPrestart, fail(errdefs.ErrFailedPrecondition, "instance %s was booted, and its keeper does not restore", i.id))
	}
	ask, overlay, err := p.prepareSleep(ctx, i, r)
	var resp *api.DumpResponse
	if err == nil {
		resp, err = p.dump(ctx, i.seed, ask)
	}
	p.point("instance dumped")
	if err == nil {
		from := time.Now()
		err = p.sealSleeper(i)
		resp.Phases = append(resp.Phases, &api.Phase{Name: "sums", Nanoseconds: time.Since(from).Nanoseconds()})
	}
	if err == nil {
		err = p.rewrite(i, func(row *api.InstanceRow) {
			row.Sleeping = &api.Sleeping{
				Whole: true, Bytes: resp.Bytes, Full: resp.Full, Streams: r.Streams, Overlay: overlay, Pid: uint32(row.Instance.Pid),
			}
		})
	}
	if err != nil {
		return nil, errors.Join(err, p.dropSleep(i))
	}
	p.tellSleep(EventAsleep, i, fmt.Sprintf("%d of %d bytes", resp.Bytes, resp.Full))
	return &api.SleepResponse{Bytes: resp.Bytes, Full: resp.Full, Phases: resp.Phases}, nil
}

// prepareSleep makes the directory of the image, with the spec of all that the container has mounted, and says what the keeper is to do.
func (p *Pool) prepareSleep(ctx context.Context, i *instance, r *api.SleepRequest) (_ *api.DumpRequest, overlay []string, err error) {
	spec, err := p.mountedSpec(i, r.Mounts)
	if err != nil {
		return nil, nil, err
	}
	if overlay, err = p.rootfs.Mounted(ctx, p.rowOf(i).Upperdir); err != nil {
		return nil, nil, err
	}
	if err := p.rewrite(i, func(row *api.InstanceRow) { row.Sleeping = &api.Sleeping{} }); err != nil {
		return nil, nil, err
	}
	// What an earlier sleep has left, of which it was woken.
	if err := p.removeImage(i); err != nil {
		return nil, nil, err
	}
	dir := seedDir(p.paths.SleepDir(i.id))
	if err := errors.Join(os.MkdirAll(string(dir), 0o700), dir.write(fileSpec, spec)); err != nil {
		return nil, nil, err
	}
	ask := &api.DumpRequest{
		Id: i.id, Images: filepath.Join(string(dir), "images"), Spec: spec, Cgroup: r.Cgroup, Streams: r.Streams, Joins: r.Joins,
		Base: p.linkBase(ctx, i, string(dir)),
	}
	return ask, overlay, nil
}

// mountedSpec is the spec that an instance's seed was baked with, with mounts that were added to a container.
func (p *Pool) mountedSpec(i *instance, added []byte) ([]byte, error) {
	dir := p.paths.seedDir(i.seed)
	if !p.seedKnown(i.seed) {
		dir = seedDir(p.paths.InstanceDir(i.id)) // leaveSpec
	}
	data, err := dir.spec()
	if errors.Is(err, os.ErrNotExist) {
		return nil, refuse(ReasonNoSeed, fail(errdefs.ErrFailedPrecondition, "seed %s was removed", i.seed))
	}
	if err != nil {
		return nil, err
	}
	var spec specs.Spec
	var mounts []specs.Mount
	if err := errors.Join(json.Unmarshal(data, &spec), json.Unmarshal(added, &mounts)); err != nil {
		return nil, fmt.Errorf("parse spec: %w", err)
	}
	spec.Mounts = append(spec.Mounts, mounts...)
	return json.Marshal(&spec)
}

// dump has the keeper of an instance write it to disk.
func (p *Pool) dump(ctx context.Context, seedID string, ask *api.DumpRequest) (*api.DumpResponse, error) {
	k, err := p.keepers.find(ctx, seedID)
	if errdefs.IsNotFound(err) {
		return nil, refuse(ReasonKeeperGone, fail(errdefs.ErrFailedPrecondition, "%w", err))
	}
	if err != nil {
		return nil, err
	}
	resp, err := k.Dump(ctx, ask)
	err = errgrpc.ToNative(err)
	switch {
	case err == nil:
		return resp, nil
	case errdefs.IsNotFound(err):
		// A keeper that was started after the one that made it.
		return nil, refuse(ReasonKeeperGone, fail(errdefs.ErrFailedPrecondition, "%w", err))
	case errdefs.IsFailedPrecondition(err):
		return nil, refuse(ReasonForeignResource, err)
	}
	return nil, refuse(ReasonDumpFailed, p.explain(err))
}

// dropSleep removes the image of an instance that does not sleep. The caller holds the container's lock.
func (p *Pool) dropSleep(i *instance) error {
	if err := p.rewrite(i, func(row *api.InstanceRow) { row.Sleeping = nil }); err != nil {
		return err
	}
	return p.removeImage(i)
}

// awake removes the image of an instance that runs: what it has done since is not in it.
func (p *Pool) awake(ctx context.Context, i *instance) error {
	row := p.rowOf(i)
	if row.Sleeping == nil {
		return nil
	}
	unlock, err := p.lockContainer(ctx, row.Namespace, row.Container)
	if err != nil {
		return err
	}
	defer unlock()
	row = p.rowOf(i)
	if row.Sleeping == nil || !linux.Alive(int(row.Instance.Pid), row.Instance.StartTime) {
		return nil
	}
	// It was written, and its shim is ending it, which thaws it. Should it run on after all, the next image, or its end, replaces this one.
	if row.Sleeping.Whole && row.Sleeping.Pid == uint32(row.Instance.Pid) {
		return nil
	}
	// A frozen one is on its way in or out.
	if frozen, err := isFrozen(int(row.Instance.Pid)); err != nil || frozen {
		return err
	}
	if row.Sleeping.Whole {
		p.tellSleep(EventAwake, i, "")
	}
	return p.dropSleep(i)
}

// wakeUp makes an instance that is on disk again, frozen in the container's cgroup. The image stays until it runs. After an error nothing of the instance is there but
// the image.
func (p *Pool) wakeUp(ctx context.Context, i *instance, r *api.WakeRequest) (*api.MakeResponse, error) {
	row := p.rowOf(i)
	unlock, err := p.lockContainer(ctx, row.Namespace, row.Container)
	if err != nil {
		return nil, err
	}
	defer unlock()
	row = p.rowOf(i)
	if phase(row.Phase) != phaseBound || !row.Sleeping.GetWhole() {
		return nil, fail(errdefs.ErrFailedPrecondition, "instance %s does not sleep", i.id)
	}
	// What is left of a wake that was cut: the shim has given up on it, or would not ask again.
	if err := p.kill(ctx, row); err != nil {
		return nil, err
	}
	if err := p.checkSleeper(i, false); err != nil {
		return nil, err
	}
	// What is large is read while the instance is made; nothing of that runs yet.
	checked := make(chan error, 1)
	go func() { checked <- p.checkSleeper(i, true) }()
	made, err := p.makeAgain(ctx, i, row, r)
	if damage := <-checked; damage != nil {
		if err == nil {
			err = p.kill(ctx, &api.InstanceRow{Instance: made.Instance})
		}
		return nil, errors.Join(damage, err)
	}
	if err != nil {
		return nil, refuse(ReasonRestoreFailed, p.explain(err))
	}
	p.point("instance woken")
	if err := p.rewrite(i, func(row *api.InstanceRow) { row.Instance = made.Instance }); err != nil {
		return nil, errors.Join(err, p.kill(ctx, &api.InstanceRow{Instance: made.Instance}))
	}
	if err := p.releaseKeeper(ctx, i.seed); err != nil {
		log.G(ctx).WithError(err).WithField("seed", i.seed).Warn("retire keeper of removed seed")
	}
	return made, nil
}

// makeAgain has a keeper restore an instance from its own image.
func (p *Pool) makeAgain(ctx context.Context, i *instance, row *api.InstanceRow, r *api.WakeRequest) (*api.MakeResponse, error) {
	spec, err := os.ReadFile(filepath.Join(p.paths.SleepDir(i.id), fileSpec))
	if err != nil {
		return nil, err
	}
	ask := &api.MakeRequest{
		Id: i.id, Images: filepath.Join(p.paths.SleepDir(i.id), "images"), Overlay: row.Sleeping.Overlay, Cgroup: r.Cgroup,
		Netns: r.Netns, Ipcns: r.Ipcns, Utsns: r.Utsns, Spec: spec, Dir: p.paths.InstanceDir(i.id),
		StdioKeys: row.Sleeping.Streams, Streams: r.Streams, AtOnce: true, Again: true,
	}
	made, err := p.askKeeper(ctx, i.seed, ask)
	if errors.Is(err, ttrpc.ErrClosed) && !p.seedKnown(i.seed) {
		// The keeper of a removed seed ends with its last instance, and this one has just gone to sleep.
		made, err = p.askKeeper(ctx, i.seed, ask)
	}
	if err != nil {
		return nil, errgrpc.ToNative(err)
	}
	made.Instance.Id, made.Instance.Seed, made.Instance.Keeper = i.id, i.seed, p.paths.KeeperSocket(i.seed)
	return made, nil
}

// askKeeper asks a seed's keeper for an instance. The error is the connection's own.
func (p *Pool) askKeeper(ctx context.Context, seedID string, ask *api.MakeRequest) (*api.MakeResponse, error) {
	k, err := p.keeperOf(ctx, seedID)
	if err != nil {
		return nil, err
	}
	return k.Make(ctx, ask)
}

// keeperOf is the keeper of a seed, which may be damaged or have been removed: what sleeps does not need it.
func (p *Pool) keeperOf(ctx context.Context, seedID string) (*keeperConn, error) {
	p.mu.Lock()
	s := p.seeds[seedID]
	p.mu.Unlock()
	lock := &p.strays
	if s != nil {
		lock = &s.load
	}
	lock.Lock()
	defer lock.Unlock()
	return p.keepers.get(ctx, seedID, nil)
}

// tellSleep tells that an instance was put to sleep or woken.
func (p *Pool) tellSleep(kind string, i *instance, detail string) {
	row := p.rowOf(i)
	p.mu.Lock()
	name := i.seed
	if s := p.seeds[i.seed]; s != nil {
		name = s.meta.Info.Name
	}
	p.mu.Unlock()
	p.events.tell(&api.Event{Kind: kind, Namespace: row.Namespace, Seed: name, Instance: i.id, Container: row.Container, Detail: detail})
	log.G(p.life).WithFields(log.Fields{"ns": row.Namespace, "id": row.Container, "seed": i.seed, "detail": detail}).Info(kind)
}
