package linux

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// cgroupMounts is where a host has its cgroup file systems; those that a container manager mounts elsewhere are views of the same ones.
const cgroupMounts = "/sys/fs/cgroup"

// hierarchies is found once: a cgroup file system is not mounted or unmounted while the host runs.
var hierarchies = sync.OnceValues(findHierarchies)

// Hierarchies returns the mount points of every writable cgroup hierarchy, v1 ones first in alphabetical order, the v2 one last. A host without
// cgroup v2 below /sys/fs/cgroup is an error.
func Hierarchies() ([]string, error) { return hierarchies() }

// UnifiedRoot returns the mount point of cgroup v2: /sys/fs/cgroup, or /sys/fs/cgroup/unified on a hybrid host.
func UnifiedRoot() (string, error) {
	list, err := hierarchies()
	if err != nil {
		return "", err
	}
	return list[len(list)-1], nil
}

func findHierarchies() ([]string, error) {
	mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) { return !isHierarchy(m), false })
	if err != nil {
		return nil, fmt.Errorf("find cgroup hierarchies: %w", err)
	}
	var v1 []string
	v2 := ""
	// A hierarchy may be mounted at several places, also v1's: its device number is the same everywhere.
	seen := map[[2]int]bool{}
	for _, m := range mounts {
		device := [2]int{m.Major, m.Minor}
		if seen[device] || !isVisible(m) {
			continue
		}
		seen[device] = true
		if m.FSType == "cgroup2" {
			v2 = m.Mountpoint
		} else {
			v1 = append(v1, m.Mountpoint)
		}
	}
	if v2 == "" {
		return nil, errors.New("find cgroup hierarchies: no writable cgroup2 file system below " + cgroupMounts)
	}
	slices.Sort(v1)
	return append(v1, v2), nil
}

// isHierarchy says whether a mount is the whole of a cgroup hierarchy, writable, and where hosts have it.
func isHierarchy(m *mountinfo.Info) bool {
	if m.FSType != "cgroup" && m.FSType != "cgroup2" || m.Root != "/" {
		return false
	}
	rest, ok := strings.CutPrefix(m.Mountpoint, cgroupMounts)
	return ok && (rest == "" || rest[0] == '/') && !slices.Contains(strings.Split(m.Options, ","), "ro")
}

// isVisible says whether a mount is what its mount point shows: a cgroup2 mounted over /sys/fs/cgroup leaves all that was there in mountinfo.
func isVisible(m *mountinfo.Info) bool {
	var st unix.Statx_t
	err := unix.Statx(unix.AT_FDCWD, m.Mountpoint, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st)
	return err == nil && st.Mnt_id == uint64(m.ID)
}
