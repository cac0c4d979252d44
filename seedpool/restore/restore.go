package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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
	// Staged are the root and the mounts.
	Staged *Staged
	// NetNS is the network namespace to restore into.
	NetNS *os.File
	// Cgroup is where the instance is to live. It exists in every hierarchy.
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
	r := &restoring{o: o, from: time.Now()}
	log := filepath.Join(o.WorkDir, "restore.log")
	pid, err = r.run(ctx, c)
	if err != nil {
		return 0, nil, newError("restore", log, r.session, errors.Join(err, r.undo(pid)))
	}
	return pid, r.phases, nil
}

// restoring is one restore under way.
type restoring struct {
	o       Options
	session *session
	pid     int
	from    time.Time
	phases  []Phase
}

func (r *restoring) phase(name string) {
	now := time.Now()
	r.phases = append(r.phases, Phase{name, now.Sub(r.from)})
	r.from = now
}

func (r *restoring) run(ctx context.Context, c CRIU) (int, error) {
	dirs, err := openDirs(r.o.ImagesDir, r.o.WorkDir)
	if err != nil {
		return 0, err
	}
	defer closeAll(dirs)
	opts, files := r.request(dirs)
	if err := r.start(c, files); err != nil {
		return 0, err
	}
	defer r.session.end()
	r.phase("spawn")
	r.session.notify = func(script string, pid int) error { return r.notified(ctx, script, pid) }
	resp, err := r.session.request(ctx, rpc.CriuReqType_RESTORE, opts)
	if err != nil {
		return r.pid, err
	}
	r.phase("resume")
	return int(resp.GetRestore().GetPid()), nil
}

// start puts CRIU into the instance's cgroup before it is told what to do: what it allocates for the instance is then charged there. The v2 cgroup is
// entered by clone3; the v1 ones, which clone3 does not know, right after.
func (r *restoring) start(c CRIU, files []*os.File) error {
	dir, err := r.o.Cgroup.Open()
	if err != nil {
		return err
	}
	defer dir.Close()
	attr := &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if r.o.CgroupNS {
		attr.Unshareflags = syscall.CLONE_NEWCGROUP
	}
	if r.session, err = c.start(files, attr, (*exec.Cmd).Start); err != nil {
		return err
	}
	if err := r.o.Cgroup.Attach(r.session.cmd.Process.Pid); err != nil {
		r.session.end()
		return err
	}
	return nil
}

// request is what CRIU is asked for, and the files that it inherits.
func (r *restoring) request(dirs []*os.File) (opts *rpc.CriuOpts, files []*os.File) {
	opts = &rpc.CriuOpts{
		ImagesDirFd:       dirFD(dirs[0]),
		WorkDirFd:         dirFD(dirs[1]),
		LogFile:           proto.String("restore.log"),
		LogLevel:          proto.Int32(2),
		Root:              proto.String(r.o.Staged.Root),
		RstSibling:        proto.Bool(true),
		NotifyScripts:     proto.Bool(true),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		NetworkLock:       rpc.CriuNetworkLockMethod_SKIP.Enum(),
		TcpClose:          proto.Bool(true),
		FileLocks:         proto.Bool(true),
		GhostLimit:        proto.Uint32(ghostLimit),
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
	for _, m := range r.o.Staged.Mounts {
		opts.ExtMnt = append(opts.ExtMnt, &rpc.ExtMountMap{Key: proto.String(m.Point), Val: proto.String(m.Source)})
	}
	return opts, files
}

// notified handles CRIU's notifications. At pre-resume every task stands in its last ptrace stop and CRIU waits for our answer: the one moment at which the
// instance is complete and has not run.
func (r *restoring) notified(ctx context.Context, script string, pid int) error {
	switch script {
	case "setup-namespaces":
		r.pid = pid
	case "pre-resume":
		r.phase("criu")
		return r.freeze(ctx)
	}
	return nil
}

// freeze takes CRIU out of the instance's cgroup and freezes what stays.
func (r *restoring) freeze(ctx context.Context) error {
	procs, err := r.o.Cgroup.Procs()
	if err != nil {
		return err
	}
	for _, pid := range procs {
		if isOurs(pid, r.session.cmd.Process.Pid) {
			if err := r.o.Aside.AttachUnified(pid); err != nil {
				return err
			}
		}
	}
	if err := r.o.Cgroup.Freeze(ctx); err != nil {
		return err
	}
	r.phase("freeze")
	return nil
}

// isOurs says whether a process is CRIU or one of its helpers.
func isOurs(pid, criu int) bool {
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid))
	own, ownErr := os.Readlink(fmt.Sprintf("/proc/%d/exe", criu))
	return pid == criu || err == nil && ownErr == nil && exe == own
}

// killTimeout bounds how long the processes of a failed restore may take to end.
const killTimeout = 5 * time.Second

// undo ends whatever a failed restore has left in the instance's cgroup.
func (r *restoring) undo(pid int) error {
	if err := r.o.Cgroup.Kill(); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), killTimeout)
	defer cancel()
	if pid > 0 {
		// The restored init is our child: as a zombie it would keep the v1 cgroups busy.
		var status syscall.WaitStatus
		_, _ = syscall.Wait4(pid, &status, 0, nil)
	}
	return r.o.Cgroup.WaitEmpty(ctx)
}
