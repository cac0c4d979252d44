package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"github.com/containerd/log"

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
	// cloned: it is not a child of ours.
	cloned bool
	// memory is served as long as the instance lives; nil: it has memory of its own.
	memory *restore.Memory
	// guard has the memory in its care.
	guard *guard
	// gone is closed when the process has been waited for.
	gone chan struct{}

	mu sync.Mutex
	// streams are the pipes of the standard streams, each open at both ends.
	streams []*os.File // +checklocks:mu
}

func newInstance(c Config, r *api.MakeRequest) *instance {
	return &instance{
		message: &api.Instance{Id: r.Id, Seed: c.Seed, Cgroup: r.Cgroup, ExitFile: exitFile(r.Dir), Keeper: c.Socket},
		cgroup:  linux.Cgroup{Path: r.Cgroup}, dir: r.Dir, gone: make(chan struct{}),
	}
}

// hold keeps a pipe open until release.
func (i *instance) hold(f *os.File) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.streams = append(i.streams, f)
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

// adopt takes up the restored process, which is frozen.
func (i *instance) adopt(pid int) (err error) {
	i.message.Pid = uint32(pid)
	pids, err := i.cgroup.Procs()
	if err != nil {
		return err
	}
	if i.message.Credentials, err = readCredentials(pids); err != nil {
		return err
	}
	if i.pidfd, err = linux.OpenPidfd(pid); err != nil {
		return err
	}
	if i.message.StartTime, err = linux.StartTime(pid); err != nil || i.memory == nil {
		return err
	}
	return i.guard.protect(i.memory, i.pidfd)
}

// destroy ends a process that could not be adopted.
func (i *instance) destroy(pid int) error {
	if err := i.cgroup.Kill(); err != nil {
		return err
	}
	if i.cloned {
		return i.forsake()
	}
	_, err := syscall.Wait4(pid, nil, 0, nil)
	return errors.Join(err, i.forsake())
}

// forsake lets go of the memory of an instance that has ended.
func (i *instance) forsake() error {
	if i.memory == nil {
		return nil
	}
	i.guard.forget(i.memory)
	return i.memory.Close()
}

// watchMemory ends an instance whose memory can no longer be served: it would go on with wrong memory.
func (i *instance) watchMemory(ctx context.Context) {
	if i.memory == nil {
		return
	}
	select {
	case <-i.gone:
		return
	case <-i.memory.Lost():
	}
	if !linux.Alive(int(i.message.Pid), i.message.StartTime) {
		return
	}
	fields := log.Fields{"id": i.message.Id, "seed": i.message.Seed}
	log.G(ctx).WithError(i.memory.Err()).WithFields(fields).Error("kill instance that has lost its memory")
	if err := i.pidfd.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		log.G(ctx).WithError(err).WithFields(fields).Error("kill instance")
	}
}

// await waits for the process, writes its status where others find it, and lets go of what was held for it.
func (i *instance) await(ctx context.Context) {
	defer close(i.gone)
	fields := log.Fields{"id": i.message.Id, "seed": i.message.Seed}
	if err := i.pidfd.Wait(ctx); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("wait for instance")
	}
	if status, err := i.reap(); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("reap instance")
	} else if err := i.record(status); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("write exit status")
	}
	if err := errors.Join(i.forsake(), i.release(), i.pidfd.Close()); err != nil {
		log.G(ctx).WithError(err).WithFields(fields).Error("release instance")
	}
}

// reap is the status of a process that has ended. That of a clone, which has no parent that cares, is the kernel's to keep.
func (i *instance) reap() (status syscall.WaitStatus, err error) {
	if !i.cloned {
		_, err = syscall.Wait4(int(i.message.Pid), &status, 0, nil)
		return status, err
	}
	if err := i.pidfd.Reaped(); err != nil {
		return 0, err
	}
	status, known, err := i.pidfd.ExitStatus()
	if err == nil && !known {
		err = errors.New("the kernel does not tell it")
	}
	return status, err
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

// kill ends all of the instance and returns when its init has been waited for. The init ends by its own name, too: it may have been moved to another cgroup.
func (i *instance) kill(ctx context.Context) error {
	// Of one that has ended by itself nothing is left but to be reaped. Its cgroup may be a container's that sleeps, into which nothing could be cloned once it was killed.
	if linux.Alive(int(i.message.Pid), i.message.StartTime) {
		if err := i.cgroup.Kill(); err != nil {
			return err
		}
	}
	// One that has ended meanwhile cannot be signalled, and need not be.
	signalled := i.pidfd.Signal(syscall.SIGKILL)
	select {
	case <-i.gone:
	case <-ctx.Done():
		return fmt.Errorf("kill instance %s: %w", i.message.Id, errors.Join(ctx.Err(), signalled))
	}
	return i.cgroup.WaitEmpty(ctx)
}
