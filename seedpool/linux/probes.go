package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// ErrUnknown is wrapped by a probe that could not find out.
var ErrUnknown = errors.New("could not be tried")

// Probe is one thing that the kernel can do or not, found out by doing it.
type Probe struct {
	Name string
	// Needs says since when kernels can, or what else it takes.
	Needs string
	// Fix says what to do when it is missing.
	Fix string
	// Optional: sprout works without it, with the loss that Needs and Fix name.
	Optional bool
	// Run returns nil when it works, an error that wraps ErrUnknown when that could not be found out, and another one when it does not work.
	Run func() error
}

// Probes is the table that `sprout doctor` prints.
func Probes() []Probe {
	return []Probe{
		{"cgroup v2 freezer", "Linux 5.2, cgroup2 mounted below /sys/fs/cgroup", "mount cgroup2 (mount -t cgroup2 none /sys/fs/cgroup/unified) or boot with systemd.unified_cgroup_hierarchy=1", false, probeFreezer},
		{"cgroup.kill", "Linux 5.14", "use a newer kernel", false, probeCgroupKill},
		{"mounts without a path", "Linux 5.12: open_tree, move_mount, mount_setattr", "use a newer kernel", false, probeDetachedMount},
		{"overlay file system", "overlay in the kernel", "modprobe overlay", false, probeOverlay},
		{"exit status by pidfd", "Linux 6.15; without it the keeper tells", "nothing to do: older kernels work, an exit status is lost if the keeper dies first", true, probePidfdExit},
		{"CAP_SYS_RESOURCE", "to bake apps whose processes run as several users", "run sproutd as full root; without it such apps cannot be baked, all others can", true, probeSysResource},
	}
}

// inProbeCgroup runs fn with a process of its own in a cgroup of its own.
func inProbeCgroup(fn func(c Cgroup, pid int) error) error {
	c := Cgroup{Path: "/sprout-probe-" + strconv.Itoa(os.Getpid())}
	root, err := UnifiedRoot()
	if err != nil {
		return err
	}
	if err := os.Mkdir(root+c.Path, 0o755); err != nil {
		return fmt.Errorf("make a cgroup: %w: %w", ErrUnknown, err)
	}
	sleeper := exec.Command("sleep", "60")
	if err := sleeper.Start(); err != nil {
		return errors.Join(fmt.Errorf("start a process: %w: %w", ErrUnknown, err), os.Remove(root+c.Path))
	}
	err = c.AttachUnified(sleeper.Process.Pid)
	if err == nil {
		err = fn(c, sleeper.Process.Pid)
	}
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	return errors.Join(err, c.Remove())
}

func probeFreezer() error {
	return inProbeCgroup(func(c Cgroup, _ int) error {
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		return c.Freeze(ctx)
	})
}

func probeCgroupKill() error {
	return inProbeCgroup(func(c Cgroup, _ int) error {
		file, err := c.unified("cgroup.kill")
		if err != nil {
			return err
		}
		_, err = os.Stat(file)
		return err
	})
}

func probeDetachedMount() error {
	tree, err := cloneTree(BindMount{Source: "/", Target: "/", Options: []string{"bind", "ro"}})
	if err != nil {
		return err
	}
	return tree.Close()
}

func probeOverlay() error {
	fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	return unix.Close(fd)
}

func probePidfdExit() error {
	p, err := OpenPidfd(os.Getpid())
	if err != nil {
		return err
	}
	defer p.Close()
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
	// A kernel that does not know the request says so; one that does finds that we have not ended.
	if err := p.info(&info); err != nil && !errors.Is(err, unix.ESRCH) {
		return os.NewSyscallError("ioctl PIDFD_GET_INFO", err)
	}
	return nil
}

func probeSysResource() error {
	has, err := HasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return fmt.Errorf("read own capabilities: %w: %w", ErrUnknown, err)
	}
	if !has {
		return errors.New("not held")
	}
	return nil
}
