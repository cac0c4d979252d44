package restore

import (
	"fmt"

	"github.com/moby/sys/mountinfo"
)

// native are the file systems that CRIU mounts itself, because what they show depends on the namespaces it makes. All others are prepared outside and
// bound: CRIU would pack the files of a tmpfs into the image and unpack them with tar, 3 to 4 ms each.
var native = map[string]bool{"proc": true, "sysfs": true, "mqueue": true, "cgroup": true, "cgroup2": true}

// externals lists the mount points of a container that are prepared outside CRIU.
func externals(pid int) ([]string, error) {
	list, err := mountinfo.PidMountInfo(pid)
	if err != nil {
		return nil, fmt.Errorf("read mounts of %d: %w", pid, err)
	}
	var points []string
	for _, m := range list {
		if m.Mountpoint != "/" && !native[m.FSType] {
			points = append(points, m.Mountpoint)
		}
	}
	return points, nil
}

// External is a mount of an instance that CRIU binds: Point inside the container, Source where Stage has prepared it.
type External struct {
	Point, Source string
}
