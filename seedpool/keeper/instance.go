package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Exit is the content of an instance's exit file.
type Exit struct {
	// Status is the raw wait status, as wait(2) gives it.
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
}

// instance is one child of the keeper.
type instance struct {
	message *api.Instance
	cgroup  linux.Cgroup
	dir     string
	pidfd   *linux.Pidfd
	// gone is closed when the process has been waited for.
	gone chan struct{}

	mu      sync.Mutex
	streams []*os.File // +checklocks:mu
}

// makeInstance restores the image of a request.
func makeInstance(ctx context.Context, c Config, r *api.MakeRequest) (_ *instance, phases []*api.Phase, err error) {
	from := time.Now()
	spec := new(specs.Spec)
	if err := json.Unmarshal(r.Spec, spec); err != nil {
		return nil, nil, fmt.Errorf("parse spec: %w", err)
	}
	if err := os.MkdirAll(r.Dir, 0o700); err != nil {
		return nil, nil, err
	}
	i := &instance{cgroup: linux.Cgroup{Path: r.Cgroup}, dir: r.Dir, gone: make(chan struct{})}
	i.message = &api.Instance{Id: r.Id, Seed: c.Seed, Cgroup: r.Cgroup, ExitFile: exitFile(r.Dir), Keeper: c.Socket}
	o := restore.Options{ImagesDir: r.Images, WorkDir: r.Dir, Cgroup: i.cgroup}
	defer func() {
		if err != nil {
			err = errors.Join(err, i.release())
		}
	}()
	if err := i.open(r.StdioKeys, &o); err != nil {
		return nil, nil, err
	}
	defer func() {
		for _, f := range o.Stdio {
			_ = f.Close()
		}
	}()
	if o.NetNS, err = openNetNS(r.Netns); err != nil {
		return nil, nil, err
	}
	defer o.NetNS.Close()
	if err := i.house(&o, spec, r.Overlay); err != nil {
		return nil, nil, err
	}
	staged := time.Since(from)
	pid, took, err := restore.Restore(ctx, c.CRIU, o)
	err = errors.Join(err, o.Staged.Unstage())
	if err != nil {
		return nil, nil, err
	}
	phases = append(phases, &api.Phase{Name: "stage", Nanoseconds: staged.Nanoseconds()})
	for _, p := range took {
		phases = append(phases, &api.Phase{Name: p.Name, Nanoseconds: p.Took.Nanoseconds()})
	}
	return i, phases, i.adopt(pid)
}

// house prepares where the instance lives: its cgroup, which a shim may have frozen already and in which CRIU has to run, and its mounts.
func (i *instance) house(o *restore.Options, spec *specs.Spec, overlay []string) (err error) {
	if err := i.cgroup.Create(); err != nil {
		return err
	}
	if err := i.cgroup.SetFrozen(false); err != nil {
		return err
	}
	if o.Aside, err = ownCgroup(); err != nil {
		return err
	}
	o.CgroupNS = restore.HasCgroupNS(spec)
	o.Staged, err = restore.Stage(restore.StageOptions{Dir: i.dir, ImagesDir: o.ImagesDir, Overlay: overlay, Spec: spec, Cgroup: i.cgroup})
	return err
}

// open makes the named pipes of the standard streams, holds them, and opens the instance's own ends.
func (i *instance) open(keys []string, o *restore.Options) error {
	paths := [3]*string{&i.message.Stdin, &i.message.Stdout, &i.message.Stderr}
	for n, key := range keys {
		if key == "" || n >= len(paths) {
			continue
		}
		path := filepath.Join(i.dir, strconv.Itoa(n))
		if err := linux.MakeFifo(path, 0o600); err != nil {
			return err
		}
		held, err := linux.HoldFifo(path)
		if err != nil {
			return err
		}
		i.mu.Lock()
		i.streams = append(i.streams, held)
		i.mu.Unlock()
		if o.Stdio[n], err = linux.InheritFifo(path, n > 0); err != nil {
			return err
		}
		o.StdioKeys[n], *paths[n] = key, path
	}
	return nil
}

func openNetNS(path string) (*os.File, error) {
	if path == "" {
		return linux.NewNetNS()
	}
	return os.Open(path)
}

// adopt takes up the restored process.
func (i *instance) adopt(pid int) (err error) {
	i.message.Pid = uint32(pid)
	if i.pidfd, err = linux.OpenPidfd(pid); err != nil {
		return err
	}
	i.message.StartTime, err = linux.StartTime(pid)
	return err
}

// release closes the keeper's ends of the standard streams. It may be called more than once.
func (i *instance) release() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	var errs []error
	for _, f := range i.streams {
		errs = append(errs, f.Close())
	}
	i.streams = nil
	return errors.Join(errs...)
}

// await waits for the process, writes its status where others find it, and lets go of what was held for it.
func (i *instance) await(ctx context.Context) {
	defer close(i.gone)
	fields := log.Fields{"id": i.message.Id, "seed": i.message.Seed}
	if err := i.pidfd.Wait(ctx); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("wait for instance")
	}
	var status syscall.WaitStatus
	if _, err := syscall.Wait4(int(i.message.Pid), &status, 0, nil); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("reap instance")
	} else if err := i.record(status); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("write exit status")
	}
	if err := errors.Join(i.release(), i.pidfd.Close()); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("release instance")
	}
}

// record writes the exit file. A directory that is gone means that nobody is left who would read it.
func (i *instance) record(status syscall.WaitStatus) error {
	data, err := json.Marshal(Exit{Status: uint32(status), At: time.Now().UTC()})
	if err != nil {
		return err
	}
	f, err := atomicfile.New(exitFile(i.dir), 0o600)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		return errors.Join(err, f.Cancel())
	}
	if err := f.Close(); !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// kill ends all of the instance and returns when its init has been waited for and its cgroup is empty.
func (i *instance) kill(ctx context.Context) error {
	if err := i.cgroup.Kill(); err != nil {
		return err
	}
	select {
	case <-i.gone:
	case <-ctx.Done():
		return ctx.Err()
	}
	return i.cgroup.WaitEmpty(ctx)
}
