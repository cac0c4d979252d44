package restore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// Dump writes the image of a container and ends the container. The error is an *Error; then the container may still run, and what is in ImagesDir is no image.
func Dump(ctx context.Context, c CRIU, o DumpOptions) (Dumped, error) {
	d, s, err := dump(ctx, c, o)
	if err != nil {
		return Dumped{}, newError("dump", filepath.Join(o.WorkDir, logName("dump")), s, err)
	}
	return d, nil
}

func dump(ctx context.Context, c CRIU, o DumpOptions) (d Dumped, s *session, err error) {
	if d, err = examine(o.PID, o.Spec); err != nil {
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
	opts, err := dumpRequest(o, dirs)
	if err != nil {
		return d, nil, err
	}
	s, err = c.start(nil, nil, func(cmd *exec.Cmd) error { return startIsolated(cmd, o) })
	if err != nil {
		return d, nil, err
	}
	defer s.end()
	s.abort = func() { _ = s.cmd.Process.Kill() }
	s.notify = func(script string, _ int) error {
		if script != "post-dump" {
			return nil
		}
		// The processes still stand; with an error they go on, otherwise CRIU ends them.
		return packAll(o.PID, o.ImagesDir, o.Spec)
	}
	if _, err = s.request(ctx, rpc.CriuReqType_DUMP, opts); err == nil {
		d.OwnNamespaces, err = detach(o.ImagesDir, o.Spec)
	}
	return d, s, err
}

// examine looks at what the image will not say: the standard streams' names, how much there is, and what CRIU would dump and nobody could restore.
func examine(pid int, spec *specs.Spec) (d Dumped, err error) {
	for i := range d.StdioKeys {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, i))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return d, err
		}
		if strings.HasPrefix(link, "pipe:[") {
			d.StdioKeys[i] = link
		}
	}
	pids, err := family(pid)
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
	return d, errors.Join(knownMounts(pid, spec), ownPipes(pids, d.StdioKeys[:]))
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

func dumpRequest(o DumpOptions, dirs []*os.File) (*rpc.CriuOpts, error) {
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
		External:          []string{fmt.Sprintf("net[%d]:%s", netns.Ino, netnsKey)},
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
		if err := linux.PrivateMounts(); err != nil {
			return err
		}
		if err := Isolate(o.WorkDir); err != nil {
			return err
		}
		// Filled while the ids are still root's: with mixed ones some of CRIU's probes fail.
		if err := (CRIU{Path: cmd.Path}).Warm(); err != nil {
			return err
		}
		if privileged || creds.Uids[0] == 0 && creds.Gids[0] == 0 {
			return cmd.Start()
		}
		return linux.StartAs(cmd, creds.Uids[0], creds.Gids[0])
	})
}
