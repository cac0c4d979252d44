package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Options say what to restore and where.
type Options struct {
	// ImagesDir holds the image, WorkDir receives CRIU's log.
	ImagesDir, WorkDir string
	// Memory, of a hot image that was made of the one in ImagesDir, has the instance share its memory instead of having a copy; nil: a copy. Restore closes it
	// when it fails, else the caller does when the instance has ended.
	Memory *Memory
	// Staged are the root and the mounts.
	Staged *Staged
	// NetNS is the network namespace to restore into.
	NetNS *os.File
	// IPCNS and UTSNS are those to restore into; nil: new ones, or the image's if it has its own.
	IPCNS, UTSNS *os.File
	// Cgroup is where the instance is to live. It exists in every hierarchy, is not frozen, and has no other process.
	Cgroup linux.Cgroup
	// Aside is a cgroup for CRIU itself once the instance is to be frozen.
	Aside linux.Cgroup
	// CgroupNS gives the instance a cgroup namespace whose root is its cgroup.
	CgroupNS bool
	// StdioKeys name the standard streams in the image, Stdio are the files to put in their place. An empty key: the image has the stream itself.
	StdioKeys [3]string
	Stdio     [3]*os.File
}

// Phase is one step and how long it took.
type Phase struct {
	Name string
	Took time.Duration
}

// Restore makes an instance: a child of the calling process, frozen, that has not run since it was dumped. The caller waits for the child. The error is an
// *Error, and then nothing is left of the instance.
func Restore(ctx context.Context, c CRIU, o Options) (pid int, phases []Phase, err error) {
	return restore(ctx, c, &restoring{o: o})
}

func restore(ctx context.Context, c CRIU, r *restoring) (pid int, phases []Phase, err error) {
	r.from = time.Now()
	join, unshare, err := r.namespaces()
	if err != nil {
		return 0, nil, r.failed(err)
	}
	r.unshare = unshare
	// All on one thread: CRIU dies with it, so also with this process. Half a restore must not go on to an app that runs and has no owner.
	err = linux.Enter(join, func() error {
		if err := r.run(ctx, c); err != nil {
			return errors.Join(err, r.undo())
		}
		r.session.end()
		r.phase("end")
		return nil
	})
	if err != nil {
		return 0, nil, r.failed(err)
	}
	return r.pid, r.phases, nil
}

// failed lets go of the memory that the instance would have had.
func (r *restoring) failed(err error) error {
	if r.o.Memory != nil {
		err = errors.Join(err, r.o.Memory.Close())
	}
	return newError("restore", filepath.Join(r.o.WorkDir, logName("restore")), r.session, err)
}

// restoring is one restore under way.
type restoring struct {
	o Options
	// template is set when it is a template that is made.
	template *TemplateOptions
	session  *session
	// settle ends unsettle.
	settle func()
	// unshare are the namespaces that CRIU is to have anew, CLONE_NEW*.
	unshare uintptr
	pid     int
	from    time.Time
	phases  []Phase
}

func (r *restoring) phase(name string) {
	now := time.Now()
	r.phases = append(r.phases, Phase{name, now.Sub(r.from)})
	r.from = now
}

func (r *restoring) run(ctx context.Context, c CRIU) (err error) {
	if err := show(r.imagesDir(), r.o.WorkDir); err != nil {
		return err
	}
	// While CRIU starts. It would itself wait for ever for pages that are not there.
	checked := make(chan error, 1)
	go func() { checked <- r.check() }()
	dirs, err := openDirs(r.imagesDir(), r.o.WorkDir)
	if err != nil {
		return err
	}
	defer closeAll(dirs)
	if r.o.Memory != nil {
		stop, err := r.o.Memory.listen(dirs[1])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, stop()) }()
	}
	opts, files := r.request(dirs)
	if err := r.start(c, files); err != nil {
		return err
	}
	r.phase("spawn")
	if err := <-checked; err != nil {
		return err
	}
	r.phase("check")
	r.session.notify = func(script string, _ int) error { return r.notified(ctx, script) }
	r.session.abort = func() { _ = r.kill() }
	r.settle = r.unsettle()
	defer r.settle()
	resp, err := r.session.request(ctx, rpc.CriuReqType_RESTORE, opts)
	if err != nil {
		return err
	}
	if r.pid = int(resp.GetRestore().GetPid()); r.pid <= 0 {
		return errors.New("criu names no process")
	}
	if r.template != nil {
		if r.pid, err = r.template.find(); err != nil {
			return err
		}
	}
	r.phase("resume")
	return nil
}

// imagesDir is where CRIU finds the image.
func (r *restoring) imagesDir() string {
	if r.o.Memory != nil {
		return r.o.Memory.hot.dir()
	}
	return r.o.ImagesDir
}

// check is of no use for a hot image: it was checked when it was made, and has not changed.
func (r *restoring) check() error {
	if r.o.Memory != nil {
		return nil
	}
	return Check(r.o.ImagesDir)
}

// start puts CRIU into the instance's cgroup before it is told what to do: what it allocates for the instance is then charged there, and the cgroup
// namespace begins there. clone3 enters the v2 cgroup; the v1 ones, of which it does not know, are taken over from the thread.
func (r *restoring) start(c CRIU, files []*os.File) error {
	dir, err := r.o.Cgroup.Open()
	if err != nil {
		return err
	}
	defer dir.Close()
	run := (*exec.Cmd).Start
	if r.template != nil {
		run = r.template.start
	} else if err := r.o.Cgroup.AttachThread(); err != nil {
		return err
	}
	attr := &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd()), Pdeathsig: syscall.SIGKILL, Unshareflags: r.unshare}
	if r.o.CgroupNS {
		attr.Unshareflags |= syscall.CLONE_NEWCGROUP
	}
	r.session, err = c.start(files, attr, run)
	return err
}

// request is what CRIU is asked for, and the files that it inherits.
func (r *restoring) request(dirs []*os.File) (opts *rpc.CriuOpts, files []*os.File) {
	opts = &rpc.CriuOpts{
		ImagesDirFd:       dirFD(dirs[0]),
		WorkDirFd:         dirFD(dirs[1]),
		LogFile:           proto.String(logName("restore")),
		LogLevel:          proto.Int32(logLevel),
		Root:              proto.String(r.o.Staged.Root),
		RstSibling:        proto.Bool(true),
		NotifyScripts:     proto.Bool(true),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		NetworkLock:       rpc.CriuNetworkLockMethod_SKIP.Enum(),
		TcpClose:          proto.Bool(true),
		FileLocks:         proto.Bool(true),
		GhostLimit:        proto.Uint32(ghostLimit),
	}
	if r.template != nil {
		r.template.asTemplate(opts)
	}
	inherit := func(key string, f *os.File) {
		opts.InheritFd = append(opts.InheritFd, &rpc.InheritFd{Key: proto.String(key), Fd: proto.Int32(int32(firstFD + len(files)))})
		files = append(files, f)
	}
	inherit(netnsKey, r.o.NetNS)
	for i, key := range r.o.StdioKeys {
		if key != "" && r.o.Stdio[i] != nil {
			inherit(key, r.o.Stdio[i])
		}
	}
	if r.o.Memory != nil {
		opts.LazyPages = proto.Bool(true)
		for _, t := range r.o.Memory.hot.tasks {
			inherit(t.name, t.file)
		}
	}
	for _, m := range r.o.Staged.Mounts {
		opts.ExtMnt = append(opts.ExtMnt, &rpc.ExtMountMap{Key: proto.String(m.Point), Val: proto.String(m.Source)})
	}
	return opts, files
}

// notified handles CRIU's notifications. At pre-resume every task stands in its last ptrace stop and CRIU waits for our answer: the one moment at which the
// instance is complete and has not run. CRIU lets the tasks go whatever is answered there, so whoever is not to run must be dead or frozen before.
func (r *restoring) notified(ctx context.Context, script string) error {
	if script != "pre-resume" {
		return nil
	}
	r.phase("criu")
	if r.o.Memory != nil {
		if err := r.o.Memory.fill(ctx); err != nil {
			return errors.Join(err, r.kill())
		}
		r.phase("fill")
	}
	if err := r.freeze(ctx); err != nil {
		return errors.Join(err, r.kill())
	}
	r.phase("freeze")
	if err := r.watch(); err != nil {
		return errors.Join(err, r.kill())
	}
	return nil
}

// freeze takes CRIU out of the instance's cgroup and freezes what stays. A task in a ptrace stop counts as frozen, and goes on to the freezer's own stop when
// it is let go.
func (r *restoring) freeze(ctx context.Context) error {
	r.settle()
	procs, err := r.o.Cgroup.Procs()
	if err != nil {
		return err
	}
	for _, pid := range procs {
		if !r.isCRIU(pid) {
			continue
		}
		if err := r.o.Aside.AttachUnified(pid); err != nil && !errors.Is(err, syscall.ESRCH) {
			return err
		}
	}
	return r.o.Cgroup.Freeze(ctx)
}

// moveAgain is how often CRIU is moved to where it is.
const moveAgain = 4 * time.Millisecond

// unsettle has the kernel ready to move CRIU at once when it is to leave. The move of a process waits for an RCU grace period, 6 to 15 ms, unless another
// process has been moved a few ms before (the threadgroup lock's rcu_sync): so CRIU is moved again and again, to where it is, while it works.
func (r *restoring) unsettle() (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		again := time.NewTicker(moveAgain)
		defer again.Stop()
		for {
			// Whatever hinders it will be seen when CRIU is moved in earnest.
			_ = r.o.Cgroup.AttachUnified(r.session.cmd.Process.Pid)
			select {
			case <-again.C:
			case <-over:
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		close(over)
		<-ended
	})
}

// isCRIU says whether a process is CRIU or one of its helpers.
func (r *restoring) isCRIU(pid int) bool {
	criu := r.session.cmd.Process.Pid
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	own, ownErr := os.Readlink(fmt.Sprintf("/proc/%d/exe", criu))
	return pid == criu || err == nil && ownErr == nil && exe == own
}

// kill ends the instance as far as it has come, and then CRIU: the other way round its tasks would run.
func (r *restoring) kill() error {
	err := r.o.Cgroup.Kill()
	if r.session != nil {
		_ = r.session.cmd.Process.Kill()
	}
	return err
}

// killTimeout bounds how long the processes of a failed restore may take to end.
const killTimeout = 5 * time.Second

// undo ends whatever a failed restore has left in the instance's cgroup.
func (r *restoring) undo() error {
	if err := r.kill(); err != nil {
		return err
	}
	if r.session != nil {
		r.session.end()
		// What CRIU has made between the kill and its own end.
		if err := r.kill(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	// The children that CRIU has made for us and has not named: their pids would be taken as long as we live.
	return errors.Join(linux.ReapIn(ctx, r.o.Cgroup), r.o.Cgroup.WaitEmpty(ctx), r.o.Cgroup.SetFrozen(false))
}
