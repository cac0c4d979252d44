package shim

//lint:file-ignore SA1019 prestart hooks are deprecated for those who write specs; nerdctl and others still do.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	shimrunc "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/stdio"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer/configs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// identity is what makes an instance this container and no other.
type identity struct {
	instance *api.Instance
	pidfd    *linux.Pidfd
	config   *configs.Config
	limits   cgroups.Manager
	cgroup   linux.Cgroup
	streams  *streams
	// memory is held when it is shared with other instances; nil: it is the instance's own.
	memory *restore.Holder
}

// bind gives the frozen instance the identity of the container, one named and timed step after the other. The instance runs nothing
// of it: it is frozen until Start. A step that fails gives the instance back. The streams come last: once containerd's are open,
// nothing may fail.
func (a *attempt) bind(ctx context.Context) error {
	// What the first steps change is not what this looks at.
	written := beside(a.writeState)
	a.undo = append(a.undo, func(context.Context) error {
		if err := written(); errors.Is(err, os.ErrExist) {
			return nil // it is another container's
		}
		return os.RemoveAll(filepath.Join(a.runcRoot(), a.ask.ID))
	})
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"hostname", a.setHostname},
		{"rlimits", a.setRlimits},
		{"oom", a.setOOMScore},
		{"sysctl", a.setSysctls},
		{"mounts", a.addLateMounts},
		{"memory", a.holdMemory},
		{"verify", func(context.Context) error { return a.verifiedAll() }},
		{"identity", func(context.Context) error { return a.told() }},
		{"state", func(context.Context) error { return written() }},
		{"files", a.files},
		{"hooks", a.runCreateHooks},
		{"stdio", a.openStreams},
	} {
		if err := a.timed(step.name, func() error { return step.do(ctx) }); err != nil {
			return err
		}
	}
	return nil
}

// beside does a step beside others; wait returns its error when it is done, as often as it is called.
func beside(do func() error) (wait func() error) {
	done := make(chan struct{})
	var err error
	go func() {
		defer close(done)
		err = do()
	}()
	return func() error {
		<-done
		return err
	}
}

// processes are those of a cgroup that is the instance's alone, in the order of their numbers, its first one among them.
func (a *attempt) processes(cgroup string) ([]int, error) {
	pids, err := linux.Cgroup{Path: cgroup}.Procs()
	if err != nil {
		return nil, err
	}
	if !slices.Contains(pids, int(a.instance.Pid)) {
		return nil, fmt.Errorf("find process %d: not in cgroup %s", a.instance.Pid, cgroup)
	}
	slices.Sort(pids)
	return pids, nil
}

// setHostname gives the instance its host name; like runc, a spec that names none leaves the host's. In a UTS namespace that it joins it has that one's.
func (a *attempt) setHostname(context.Context) error {
	if a.req.utsns != "" {
		return nil
	}
	name := a.spec.Hostname
	if name == "" {
		var err error
		if name, err = os.Hostname(); err != nil {
			return err
		}
	}
	if err := linux.SetHostname(int(a.instance.Pid), name); err != nil || a.spec.Domainname == "" {
		return err
	}
	return linux.SetDomainname(int(a.instance.Pid), a.spec.Domainname)
}

// addLateMounts mounts what the spec has and the seed has not: the files that differ from container to container, and the volumes that
// were declared late when the seed was baked.
func (a *attempt) addLateMounts(context.Context) error {
	late, err := a.lateMounts()
	if err != nil || len(late) == 0 {
		return err
	}
	binds := make([]linux.BindMount, 0, len(late))
	for _, m := range late {
		binds = append(binds, linux.BindMount{Source: m.Source, Target: m.Destination, Options: m.Options})
	}
	return linux.BindInto(int(a.instance.Pid), binds)
}

// lateMounts are the mounts that are added, with their paths whole.
func (w *wake) lateMounts() (late []specs.Mount, err error) {
	for _, m := range w.spec.Mounts {
		if !seedpool.BoundLate(w.seed, m) {
			continue
		}
		m.Destination = filepath.Clean(m.Destination)
		if !linux.IsBind(m.Type, m.Options) {
			return nil, fmt.Errorf("mount %s: type %s cannot be added to a woken container", m.Destination, m.Type)
		}
		if !filepath.IsAbs(m.Source) {
			m.Source = filepath.Join(w.ask.Bundle, m.Source)
		}
		late = append(late, m)
	}
	return late, nil
}

// verify makes sure that no thread of the instance has more than the spec grants and no process shares what the spec does not share. The instance is
// frozen: what is true of it where it was made is true of it where it is moved.
func (a *attempt) verify() error {
	if err := verifyNamespaces(a.spec, a.req, a.looked); err != nil {
		return err
	}
	return verifyCreds(a.spec, a.instance, a.looked)
}

// verifiedAll waits for verify, and makes sure that what it has looked at is what is released.
func (a *attempt) verifiedAll() error {
	if err := a.verified(); err != nil {
		return err
	}
	pids, err := a.processes(a.cgroup.Path)
	if err != nil {
		return err
	}
	if !slices.Equal(pids, a.looked) {
		return fmt.Errorf("verify processes: %v are in cgroup %s, %v were looked at", pids, a.cgroup.Path, a.looked)
	}
	return nil
}

// awaitFiles waits until the files of a spare are the container's.
func (a *attempt) awaitFiles(ctx context.Context, inst *api.Instance) error {
	ctx, cancel := context.WithTimeout(ctx, claimTimeout)
	defer cancel()
	_, err := a.pool.Adopted(ctx, &api.AdoptedRequest{Instance: inst.Id})
	return native(err)
}

// files waits for awaitFiles; a restored instance has been given the container's.
func (a *attempt) files(context.Context) error {
	if a.adopted == nil {
		return nil
	}
	return a.adopted()
}

// writeState makes the instance a container of runc's: from here on `runc exec` and all others work on it.
func (a *attempt) writeState() error {
	root := a.runcRoot()
	state := runcState(a.ask.ID, a.config, a.instance, a.limits.GetPaths())
	if err := writeRuncState(root, state); err != nil {
		return err
	}
	if err := os.Mkdir(filepath.Join(a.ask.Bundle, "rootfs"), 0o711); err != nil && !os.IsExist(err) {
		return err
	}
	// What containerd's runc shim leaves in the bundle, from which a `delete` without a living shim finds its way.
	pid := strconv.Itoa(int(a.instance.Pid))
	return errors.Join(
		os.WriteFile(filepath.Join(a.ask.Bundle, process.InitPidFile), []byte(pid), 0o600),
		shimrunc.WriteOptions(a.ask.Bundle, a.options),
		shimrunc.WriteRuntime(a.ask.Bundle, a.options.BinaryName),
	)
}

// rewriteState makes a woken instance's process that of the container of runc's that there is.
func (a *attempt) rewriteState() error {
	pid := strconv.Itoa(int(a.instance.Pid))
	return errors.Join(rewriteRuncState(a.runcRoot(), runcState(a.ask.ID, a.config, a.instance, a.limits.GetPaths())),
		os.WriteFile(filepath.Join(a.ask.Bundle, process.InitPidFile), []byte(pid), 0o600))
}

// runcRoot is where runc keeps its states for containers of this namespace.
func (w *wake) runcRoot() string {
	root := w.options.Root
	if root == "" {
		root = process.RuncRoot
	}
	return filepath.Join(root, w.ns)
}

// runCreateHooks runs the hooks that belong to create. When a later step fails, the poststop hooks undo what they did.
func (a *attempt) runCreateHooks(ctx context.Context) error {
	hooks := a.spec.Hooks
	if hooks == nil || len(runtimeHooks(hooks))+len(hooks.CreateContainer) == 0 {
		return nil
	}
	pid := int(a.instance.Pid)
	state := ociState(a.spec, a.ask.ID, a.ask.Bundle, pid, specs.StateCreating)
	// Hooks look for the container's files where runc's caller has mounted them.
	rootfs := filepath.Join(a.ask.Bundle, "rootfs")
	if err := linux.Expose(pid, rootfs); err != nil {
		return err
	}
	a.undo = append(a.undo, func(context.Context) error { return linux.Unmount(rootfs) })
	a.undo = append(a.undo, func(ctx context.Context) error {
		return runHooks(ctx, hooks.Poststop, ociState(a.spec, a.ask.ID, a.ask.Bundle, 0, specs.StateStopped))
	})
	if err := runHooks(ctx, runtimeHooks(hooks), state); err != nil {
		return err
	}
	if len(hooks.CreateContainer) == 0 {
		return nil
	}
	return runCreateContainerHooks(ctx, hooks.CreateContainer, state, pid)
}

// openStreams connects the instance's standard streams with containerd's.
func (a *attempt) openStreams(ctx context.Context) error {
	s, err := openStreams(context.WithoutCancel(ctx), a.ask.ID, a.asked(), a.instance)
	if err != nil {
		return err
	}
	a.streams = s
	a.undo = append(a.undo, func(ctx context.Context) error { s.close(ctx); return nil })
	return nil
}

func (a *attempt) asked() stdio.Stdio {
	return stdio.Stdio{Stdin: a.ask.Stdin, Stdout: a.ask.Stdout, Stderr: a.ask.Stderr, Terminal: a.ask.Terminal}
}

// task is the woken task that the attempt has made.
func (a *attempt) task() *wokenTask {
	runtime := process.NewRunc(a.options.Root, a.ask.Bundle, a.ns, a.options.BinaryName, false)
	init := process.New(a.ask.ID, runtime, a.asked())
	init.Bundle = a.ask.Bundle
	init.IoUID, init.IoGID = int(a.options.IoUid), int(a.options.IoGid)
	t := &wokenTask{
		tasks: a.tasks, ns: a.ns, id: a.ask.ID, bundle: a.ask.Bundle, asked: a.asked(), spec: a.spec,
		cgroup: a.cgroup, limits: a.limits, streams: a.streams, made: a.wake, afterWake: a.seed.AfterWake,
		runtime: runtime, init: init, record: a.record,
		phase: phaseCreated, execs: make(map[string]*execTask),
		exited: make(chan struct{}),
	}
	t.current.Store(newLife(a.identity))
	a.tasks.add(t)
	return t
}

// takeOver makes the keeper let go of the streams and sproutd of the instance, once in a life. The client does not wait for it: an instance whose shim
// lives is left alone by sproutd, and one that runs is bound, whether the word came through or not.
func (t *wokenTask) takeOver(ctx context.Context, l *life) {
	l.takenOver.Do(func() {
		t.watchOOM(ctx, l)
		ctx, cancel := context.WithTimeout(ctx, takeOverTimeout)
		defer cancel()
		if err := forget(ctx, l.instance); err != nil {
			log.G(ctx).WithError(err).WithField("id", t.id).Warn("take streams from keeper")
		}
		if err := bound(ctx, t.tasks.paths, l.instance); err != nil {
			log.G(ctx).WithError(err).WithField("id", t.id).Warn("take instance from sproutd")
		}
	})
}

// watchOOM is best effort, and done when the task runs already, as by containerd's runc shim. The v1 watcher sees a cgroup as long as it is there, the v2 one as long as it
// has processes.
func (t *wokenTask) watchOOM(ctx context.Context, l *life) {
	t.mu.Lock()
	gone := t.gone
	t.mu.Unlock()
	if gone || l.watchedOOM {
		return
	}
	if err := t.tasks.oom.watch(ctx, t.id, t.cgroup.Path); err != nil {
		log.G(ctx).WithError(err).WithField("id", t.id).Warn("watch for OOM")
	}
}

// bound makes sproutd forget the instance.
func bound(ctx context.Context, paths seedpool.Paths, inst *api.Instance) error {
	client, err := seedpool.Dial(ctx, paths.APISocket())
	if err != nil {
		return err
	}
	defer client.Close()
	_, err = client.Pool.Bound(ctx, &api.BoundRequest{Instance: inst.Id})
	return err
}

// forget makes the keeper close its ends of the instance's standard streams; it goes on to wait for the instance.
func forget(ctx context.Context, inst *api.Instance) error {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", inst.Keeper)
	if err != nil {
		return fmt.Errorf("connect to keeper: %w", err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	_, err = api.NewKeeperClient(client).Forget(ctx, &api.InstanceRef{Id: inst.Id})
	return err
}
