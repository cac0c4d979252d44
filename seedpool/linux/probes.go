package linux

import (
	"errors"
	"fmt"
	"io/fs"

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
	// It leaves nothing behind.
	Run func() error
}

const newerKernel = "use a newer kernel"

// Probes is the table that `sprout doctor` prints.
func Probes() []Probe {
	list := []Probe{
		{
			Name: "cgroup v2 freezer", Run: probeFreezer, Needs: "Linux 5.2, cgroup2 mounted below /sys/fs/cgroup",
			Fix: "mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified, or boot with systemd.unified_cgroup_hierarchy=1",
		},
		{Name: "cgroup.kill", Run: probeCgroupKill, Needs: "Linux 5.14", Fix: newerKernel},
		{Name: "start in a cgroup", Run: probeStartInCgroup, Needs: "Linux 5.7: clone3 with CLONE_INTO_CGROUP", Fix: newerKernel},
		{Name: "mounts into a running container", Run: probeDetachedMount, Needs: "Linux 5.12: open_tree, mount_setattr, move_mount", Fix: newerKernel},
		{Name: "overlay file system", Run: probeOverlay, Needs: "overlay in the kernel", Fix: "modprobe overlay"},
		{Name: "network namespaces", Run: probeNetNS, Needs: "CONFIG_NET_NS", Fix: "use a kernel built with CONFIG_NET_NS"},
		{Name: "memfd", Run: probeMemfd, Needs: "Linux 3.17, CONFIG_MEMFD_CREATE", Fix: "use a kernel built with CONFIG_MEMFD_CREATE"},
		{
			Name: "exit status by pidfd", Run: probePidfdExit, Optional: true, Needs: "Linux 6.15; without it the keeper tells",
			Fix: "nothing to do: older kernels work, an exit status is lost if the keeper dies first",
		},
		{
			Name: "clones (rung fork)", Run: probeFork, Optional: true, Needs: "Linux 6.15, CONFIG_KCMP; without it instances are restored, not cloned",
			Fix: newerKernel + ", and run sproutd as full root",
		},
		{
			Name: "userfaultfd minor faults", Run: probeUserfaultfd, Optional: true, Needs: "Linux 5.14; without them each instance has its own copy of its memory",
			Fix: "use a kernel built with CONFIG_USERFAULTFD, and run sproutd as full root",
		},
		{
			Name: "time namespaces", Run: probeTimeNS, Optional: true, Needs: "Linux 5.6, CONFIG_TIME_NS; without them a woken app sees its monotonic clock jump",
			Fix: "use a kernel built with CONFIG_TIME_NS",
		},
		{
			Name: "CAP_SYS_RESOURCE", Run: probeSysResource, Optional: true, Needs: "to bake apps whose processes run as several users",
			Fix: "run sproutd as full root; without it such apps cannot be baked, all others can",
		},
	}
	for i := range list {
		list[i].Run = asRoot(list[i].Run)
	}
	return list
}

// asRoot keeps apart what the kernel cannot do and what the caller may not do.
func asRoot(run func() error) func() error {
	return func() error {
		err := run()
		if err != nil && unix.Geteuid() != 0 && errors.Is(err, fs.ErrPermission) {
			return fmt.Errorf("%w, run it as root: %w", ErrUnknown, err)
		}
		return err
	}
}
