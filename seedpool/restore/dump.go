package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// netnsKey is what the image calls the network namespace, which is never part of it.
const netnsKey = "extRootNetNS"

// ghostLimit is the size up to which a file that is open but has no name any more is kept in the image, in bytes.
const ghostLimit = 64 << 20

// DumpOptions say what to dump.
type DumpOptions struct {
	// PID of the container's init.
	PID int
	// ImagesDir receives the image, WorkDir CRIU's log. Both are made when missing.
	ImagesDir, WorkDir string
	// Spec the container was made from.
	Spec *specs.Spec
	// Memory is the instance's, if it shares it with others: in the image it is the instance's own.
	Memory *Memory
	// Cloned: it runs files that are mapped in its template's mounts. In the image they are its own.
	Cloned bool
	// Rest has the container frozen in its cgroup instead of ended; nil: it is ended.
	Rest *Rest
}

// Rest says of a container that is frozen once it is dumped what a bake knows of its own. The caller's mount namespace must be one of Isolate's.
type Rest struct {
	// Cgroup has all of the container's processes, and no other.
	Cgroup linux.Cgroup
	// Streams are the names of the pipes that somebody outside holds, because they are the standard streams ("pipe:[inode]").
	Streams [3]string
	// Joins: an instance of the image is to join IPC and UTS namespaces. If it could not, there is no image.
	Joins bool
}

// Dumped is what an instance of the image must be given.
type Dumped struct {
	// StdioKeys are the names of the standard streams in the image ("pipe:[inode]"), empty for a stream that is no pipe.
	StdioKeys [3]string
	// Processes and Threads are how many were dumped.
	Processes, Threads int
	// OwnNamespaces: an instance can join no IPC or UTS namespace, since there is something in the app's own.
	OwnNamespaces bool
}

// Dump writes the image of a container and ends the container, or freezes it. The error is an *Error; then the container may still run, and one that was to be
// frozen does, if it has not ended by itself; what is in ImagesDir is no image.
func Dump(ctx context.Context, c CRIU, o DumpOptions) (Dumped, error) {
	d, s, err := dump(ctx, c, o)
	if err != nil {
		return Dumped{}, newError("dump", filepath.Join(o.WorkDir, logName("dump")), s, err)
	}
	return d, nil
}

func dump(ctx context.Context, c CRIU, o DumpOptions) (d Dumped, s *session, err error) {
	if d, err = examine(o); err != nil {
		return d, nil, err
	}
	if err := show(o.ImagesDir, o.WorkDir); err != nil {
		return d, nil, err
	}
	for _, dir := range []string{o.ImagesDir, o.WorkDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return d, nil, err
		}
	}
	dirs, err := openDirs(o.ImagesDir, o.WorkDir)
	if err != nil {
		return d, nil, err
	}
	defer closeAll(dirs)
	if err := hintWatches(o.PID, o.WorkDir); err != nil {
		return d, nil, err
	}
	defer os.Remove(filepath.Join(o.WorkDir, hintsFile))
	x, err := o.outside()
	if err != nil {
		return d, nil, err
	}
	opts, err := dumpRequest(o, x, dirs)
	if err != nil {
		return d, nil, err
	}
	s, err = c.start(nil, nil, func(cmd *exec.Cmd) error { return startIsolated(cmd, o) })
	if err != nil {
		return d, nil, err
	}
	defer s.end()
	s.abort = o.abort(s)
	s.notify = func(script string, _ int) error {
		if script != "post-dump" {
			return nil
		}
		// The processes still stand; with an error they go on, otherwise CRIU ends them.
		return o.complete(ctx, x, &d)
	}
	if _, err = s.request(ctx, rpc.CriuReqType_DUMP, opts); err != nil && o.Rest != nil {
		err = errors.Join(err, o.Rest.Cgroup.Thaw())
	}
	return d, s, errors.Join(err, keepPrivate(o.ImagesDir))
}

// keepPrivate takes away what CRIU lets others do with the files of an image, which hold an app's memory. The directory is root's alone all the time.
func keepPrivate(dir string) error {
	files, err := os.ReadDir(dir)
	for _, f := range files {
		err = errors.Join(err, os.Chmod(filepath.Join(dir, f.Name()), 0o600))
	}
	return err
}

// abort ends CRIU when nobody waits any more. One that is at work in a container that is to go on is waited for: it would leave its own code in the processes.
func (o DumpOptions) abort(s *session) func() {
	if o.Rest != nil {
		return func() {}
	}
	return func() { _ = s.cmd.Process.Kill() }
}

// complete makes what CRIU has written an image, while the processes stand, and has those freeze that are not to end.
func (o DumpOptions) complete(ctx context.Context, x outside, d *Dumped) (err error) {
	if err := errors.Join(packAll(o.PID, o.ImagesDir, o.Spec), x.bringIn(o.ImagesDir, o.PID)); err != nil {
		return err
	}
	if err := keepWatches(o.PID, o.ImagesDir); err != nil {
		return err
	}
	if d.OwnNamespaces, err = detach(o.ImagesDir, o.Spec); err != nil || o.Rest == nil {
		return err
	}
	if d.OwnNamespaces && o.Rest.Joins {
		return ErrOwnNamespaces
	}
	// What CRIU lets go is frozen then: it runs nothing that is not in the image.
	return o.Rest.Cgroup.Freeze(ctx)
}

// examine looks at what the image will not say: the standard streams' names, how much there is, and what CRIU would dump and nobody could restore.
func examine(o DumpOptions) (d Dumped, err error) {
	if d.StdioKeys, err = o.streams(); err != nil {
		return d, err
	}
	pids, err := family(o.PID)
	if err != nil {
		return d, err
	}
	for _, p := range pids {
		tids, err := linux.Threads(p)
		if err != nil {
			return d, err
		}
		d.Processes, d.Threads = d.Processes+1, d.Threads+len(tids)
	}
	return d, errors.Join(o.strangers(pids), knownMounts(o.PID, o.Spec), ownPipes(pids, d.StdioKeys[:]))
}

// streams are the names of the standard streams that are pipes: those that the caller knows, else those that the first process has now.
func (o DumpOptions) streams() (keys [3]string, err error) {
	if o.Rest != nil {
		return o.Rest.Streams, nil
	}
	for i := range keys {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", o.PID, i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return keys, err
		}
		if strings.HasPrefix(link, "pipe:[") {
			keys[i] = link
		}
	}
	return keys, nil
}

// strangers makes sure that a container that is to end has no process that its first one does not descend from: somebody has entered it, and would die with it.
func (o DumpOptions) strangers(family []int) error {
	if o.Rest == nil {
		return nil
	}
	pids, err := o.Rest.Cgroup.ProcsBelow()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if !slices.Contains(family, pid) {
			return fmt.Errorf("process %d: %w", pid, ErrForeign)
		}
	}
	return nil
}

// family lists a process and its descendants.
func family(pid int) ([]int, error) {
	list := []int{pid}
	children, err := linux.Children(pid)
	if err != nil {
		return nil, err
	}
	for _, child := range children {
		below, err := family(child)
		if err != nil {
			return nil, err
		}
		list = append(list, below...)
	}
	return list, nil
}

func dumpRequest(o DumpOptions, x outside, dirs []*os.File) (*rpc.CriuOpts, error) {
	var netns syscall.Stat_t
	if err := syscall.Stat(fmt.Sprintf("/proc/%d/ns/net", o.PID), &netns); err != nil {
		return nil, err
	}
	opts := &rpc.CriuOpts{
		Pid:               proto.Int32(int32(o.PID)),
		ImagesDirFd:       dirFD(dirs[0]),
		WorkDirFd:         dirFD(dirs[1]),
		LogFile:           proto.String(logName("dump")),
		LogLevel:          proto.Int32(logLevel),
		NotifyScripts:     proto.Bool(true),
		External:          append(x.names(), fmt.Sprintf("net[%d]:%s", netns.Ino, netnsKey)),
		ManageCgroupsMode: rpc.CriuCgMode_IGNORE.Enum(),
		// The lock method is stored in the image and wins at restore; anything but SKIP costs each restore 60 ms of iptables.
		NetworkLock: rpc.CriuNetworkLockMethod_SKIP.Enum(),
		TcpClose:    proto.Bool(true),
		FileLocks:   proto.Bool(true),
		GhostLimit:  proto.Uint32(ghostLimit),
	}
	_, points, err := mountPoints(o.PID)
	if err != nil {
		return nil, err
	}
	opts.LeaveRunning = proto.Bool(o.Rest != nil)
	for _, point := range points {
		opts.ExtMnt = append(opts.ExtMnt, &rpc.ExtMountMap{Key: proto.String(point), Val: proto.String(point)})
	}
	return opts, nil
}

// startIsolated starts CRIU in a mount namespace of its own. Without CAP_SYS_RESOURCE it may read the limits only of a process whose ids are its real ones.
func startIsolated(cmd *exec.Cmd, o DumpOptions) error {
	creds, err := linux.ReadCreds(o.PID, o.PID)
	if err != nil {
		return err
	}
	privileged, err := linux.HasCapability(capSysResource)
	if err != nil {
		return err
	}
	return linux.Enter(nil, func() error {
		if err := o.isolate(cmd.Path); err != nil {
			return err
		}
		if privileged || creds.Uids[0] == 0 && creds.Gids[0] == 0 {
			return cmd.Start()
		}
		return linux.StartAs(cmd, creds.Uids[0], creds.Gids[0])
	})
}

// isolate makes the calling thread's mount namespace one for CRIU, unless the caller has.
func (o DumpOptions) isolate(criu string) error {
	if o.Rest != nil {
		return nil
	}
	if err := linux.PrivateMounts(); err != nil {
		return err
	}
	if err := Isolate(o.WorkDir); err != nil {
		return err
	}
	// Filled while the ids are still root's: with mixed ones some of CRIU's probes fail.
	return (CRIU{Path: criu}).Warm()
}
