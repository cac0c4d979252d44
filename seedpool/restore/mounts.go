package restore

import (
	"fmt"
	"os"

	"github.com/moby/sys/mountinfo"
)

// native are the file systems that CRIU mounts itself, because what they show depends on the namespaces it makes. All others are prepared outside and
// bound: CRIU would pack the files of a tmpfs into the image and unpack them with tar, 3 to 4 ms each.
var native = map[string]bool{"proc": true, "sysfs": true, "mqueue": true}

// readMounts lists the mounts of a process.
func readMounts(pid int) ([]*mountinfo.Info, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	list, err := mountinfo.GetMountsFromReader(file, nil)
	if err != nil {
		return nil, fmt.Errorf("read mounts of %d: %w", pid, err)
	}
	return list, nil
}

// mountPoints lists the mount points of a process, and those of them that are prepared outside CRIU.
func mountPoints(pid int) (all map[string]bool, external []string, err error) {
	list, err := readMounts(pid)
	if err != nil {
		return nil, nil, err
	}
	all = make(map[string]bool, len(list))
	for _, m := range list {
		all[m.Mountpoint] = true
		if m.Mountpoint != "/" && !native[m.FSType] {
			external = append(external, m.Mountpoint)
		}
	}
	return all, external, nil
}
