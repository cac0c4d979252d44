package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Why an instance does not share its memory although it was to: codes for the record of the start.
const (
	ReasonNotReady  = "memory-not-ready"
	ReasonNotShared = "memory-not-shared"
)

// making is one instance on its way from a request to a process.
type making struct {
	config    Config
	heat      *heat
	templates *generations
	request   *api.MakeRequest
	spec      *specs.Spec
	options   restore.Options
	made      *instance
	phases    []*api.Phase
	// unshared says why the instance does not share its memory although it was to.
	unshared *api.Fallback
}

// makeInstance restores the image of a request, or boots. After an error nothing of the instance is left but files in its directory.
func (s *server) makeInstance(ctx context.Context, r *api.MakeRequest) (*making, error) {
	c := s.config
	m := &making{config: c, heat: s.hot(), templates: s.templates, request: r, made: newInstance(c, r)}
	defer m.close()
	err := m.prepare()
	switch {
	case err != nil:
	case r.Boot != nil:
		err = m.boot(ctx)
	default:
		err = m.restore(ctx)
	}
	if err != nil {
		return nil, errors.Join(err, m.made.release())
	}
	return m, nil
}

// phase notes a step that began at from.
func (m *making) phase(name string, from time.Time) {
	m.phases = append(m.phases, &api.Phase{Name: name, Nanoseconds: time.Since(from).Nanoseconds()})
}

// prepare makes all that the instance will find: its directory, cgroup, streams, network namespace and mounts.
func (m *making) prepare() (err error) {
	defer m.phase("prepare", time.Now())
	m.spec = new(specs.Spec)
	if err := json.Unmarshal(m.request.Spec, m.spec); err != nil {
		return fmt.Errorf("parse spec: %w", err)
	}
	if err := os.MkdirAll(m.request.Dir, 0o700); err != nil {
		return err
	}
	if err := m.clear(); err != nil {
		return err
	}
	m.options = restore.Options{ImagesDir: m.request.Images, WorkDir: m.request.Dir, Cgroup: m.made.cgroup, CgroupNS: restore.HasCgroupNS(m.spec)}
	// A shim may have frozen the cgroup already, in which CRIU has to run. It is the caller's and never made here: a shim that has given up may just have
	// removed it, and nobody would remove another.
	if err := m.made.cgroup.SetFrozen(false); err != nil {
		return err
	}
	if m.options.Aside, err = ownCgroup(); err != nil {
		return err
	}
	if err := m.streams(); err != nil {
		return err
	}
	return m.openNamespaces()
}

// streams makes the pipes of the standard streams, has the keeper hold them, and opens the instance's own ends. They have no name: a container whose streams
// are files of the host cannot be dumped again, by `runc checkpoint`.
func (m *making) streams() error {
	paths := [3]*string{&m.made.message.Stdin, &m.made.message.Stdout, &m.made.message.Stderr}
	for n, key := range m.request.StdioKeys {
		if key == "" || n >= len(paths) {
			continue
		}
		path, err := m.pipe(n)
		if err != nil {
			return err
		}
		if m.options.Stdio[n], err = linux.InheritFifo(path, n > 0); err != nil {
			return err
		}
		m.options.StdioKeys[n], *paths[n] = key, path
	}
	return nil
}

// pipe is where the pipe of the n-th standard stream is opened: one of the caller's, or a new one.
func (m *making) pipe(n int) (path string, err error) {
	if n < len(m.request.Streams) {
		return m.request.Streams[n], nil
	}
	held, err := linux.HoldPipe()
	if err != nil {
		return "", err
	}
	m.made.hold(held)
	// The app may open its own streams again, at /dev/stdout.
	if p := m.spec.Process; p != nil {
		if err := held.Chown(int(p.User.UID), -1); err != nil {
			return "", err
		}
	}
	return linux.PipePath(held)
}

// clear removes what an earlier life of the same instance has left in its directory.
func (m *making) clear() error {
	for _, file := range []string{exitFile(m.request.Dir), m.door()} {
		if err := os.Remove(file); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}

// door is where others get hold of shared memory.
func (m *making) door() string { return filepath.Join(m.request.Dir, "memory") }

// openNamespaces opens the namespaces that are asked for, as sproutd sees the paths: a namespace file is a mount, and of mounts that were made later our own
// namespace need not know.
func (m *making) openNamespaces() (err error) {
	if m.request.Netns == "" {
		if m.options.NetNS, err = linux.NewNetNS(); err != nil {
			return err
		}
	}
	for _, ns := range []struct {
		path string
		file **os.File
	}{{m.request.Netns, &m.options.NetNS}, {m.request.Ipcns, &m.options.IPCNS}, {m.request.Utsns, &m.options.UTSNS}} {
		if ns.path == "" {
			continue
		}
		if *ns.file, err = os.Open(filepath.Join(spawnersRoot, filepath.Clean("/"+ns.path))); err != nil {
			return err
		}
	}
	return nil
}

// restore stages the mounts, restores, and takes the mounts down again.
func (m *making) restore(ctx context.Context) (err error) {
	from := time.Now()
	m.options.Staged, err = restore.Stage(restore.StageOptions{
		Dir: m.request.Dir, ImagesDir: m.request.Images, Overlay: m.request.Overlay, Spec: m.spec, Cgroup: m.made.cgroup,
	})
	if err != nil {
		return err
	}
	m.phase("stage", from)
	pid, err := m.process(ctx)
	from = time.Now()
	unstaged := m.options.Staged.Unstage()
	m.phase("unstage", from)
	if err != nil {
		return errors.Join(err, unstaged)
	}
	if err := errors.Join(unstaged, m.made.adopt(pid)); err != nil {
		return errors.Join(err, m.made.destroy(pid))
	}
	if !m.request.AtOnce {
		m.mapPrograms()
	}
	return nil
}

// mapPrograms spares an instance for which nobody waits the faults of its first milliseconds. It is best effort.
func (m *making) mapPrograms() {
	defer m.phase("map", time.Now())
	pids, err := m.made.cgroup.Procs()
	for _, pid := range pids {
		err = errors.Join(err, linux.MapProgram(pid))
	}
	if err != nil {
		log.L.WithError(err).WithField("id", m.request.Id).Warn("map program of spare")
	}
}

// process makes the process: a clone of the template, or a restored one, with shared memory if it is to have it and can, else with memory of its own.
func (m *making) process(ctx context.Context) (pid int, err error) {
	if m.request.Template != nil {
		return m.forked(ctx)
	}
	if m.request.Shared {
		from := time.Now()
		pid, err = m.sharing(ctx)
		if err == nil || ctx.Err() != nil {
			return pid, err
		}
		m.unshare(err, time.Since(from))
	}
	return m.restored(ctx, m.options)
}

// sharing makes a process that shares its memory.
func (m *making) sharing(ctx context.Context) (pid int, err error) {
	hot, err := m.heat.get(ctx, m.config.Seed, m.request.Images, m.request.AtOnce)
	if err != nil {
		return 0, err
	}
	o := m.options
	o.Memory = hot.NewMemory()
	door := m.door()
	if err := o.Memory.Offer(door); err != nil {
		return 0, errors.Join(err, o.Memory.Close())
	}
	if pid, err = m.restored(ctx, o); err != nil {
		return 0, err
	}
	m.made.memory, m.made.guard, m.made.message.Memory = o.Memory, &m.heat.guard, door
	return pid, nil
}

// unshare notes that the instance is to have memory of its own, and why.
func (m *making) unshare(err error, lost time.Duration) {
	reason := ReasonNotShared
	if errors.Is(err, errHeating) {
		reason = ReasonNotReady
	}
	m.unshared = &api.Fallback{Rung: "restore", Reason: reason, Detail: err.Error(), Nanoseconds: lost.Nanoseconds()}
	log.L.WithError(err).WithFields(log.Fields{"id": m.request.Id, "seed": m.config.Seed, "reason": reason}).Warn("restore with memory of its own")
}

// restored runs CRIU.
func (m *making) restored(ctx context.Context, o restore.Options) (pid int, err error) {
	pid, took, err := restore.Restore(ctx, m.config.CRIU, o)
	for _, p := range took {
		m.phases = append(m.phases, &api.Phase{Name: p.Name, Nanoseconds: p.Took.Nanoseconds()})
	}
	return pid, err
}

// close gives back what only the making needed.
func (m *making) close() {
	for _, f := range m.options.Stdio {
		_ = f.Close()
	}
	closeFiles(m.options.NetNS, m.options.IPCNS, m.options.UTSNS)
}
