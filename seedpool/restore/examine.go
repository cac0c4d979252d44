package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ErrForeign is wrapped when a container has a mount or an open file that an instance could not be given.
var ErrForeign = errors.New("not part of the container")

// knownMounts makes sure that Stage will prepare all that is external in the image: a mount that the app or a hook has made is not in the spec.
func knownMounts(pid int, spec *specs.Spec) error {
	_, external, err := mountPoints(pid)
	if err != nil {
		return err
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	var known, cgroups []string
	for _, m := range spec.Mounts {
		point, err := resolve(root, m.Destination)
		if err != nil {
			return err
		}
		known = append(known, point)
		if m.Type == "cgroup" {
			cgroups = append(cgroups, point)
		}
	}
	if spec.Linux != nil {
		for _, path := range slices.Concat(spec.Linux.MaskedPaths, spec.Linux.ReadonlyPaths) {
			known = append(known, filepath.Clean(path))
		}
	}
	for _, point := range external {
		// runc puts a mount for each v1 hierarchy below the one of the spec.
		if !slices.Contains(known, point) && !slices.Contains(cgroups, filepath.Dir(point)) {
			return fmt.Errorf("the mount on %s: %w", point, ErrForeign)
		}
	}
	return nil
}

// ownPipes makes sure that nobody outside holds a pipe or socket of the container, its standard streams (keys) apart. CRIU dumps such a pipe as if the other
// end were closed.
func ownPipes(pids []int, keys []string) error {
	own := map[string]string{}
	for _, pid := range pids {
		for fd, link := range openFiles(strconv.Itoa(pid)) {
			if isShared(link) && !slices.Contains(keys, link) {
				own[link] = fmt.Sprintf("file %s of process %d", fd, pid)
			}
		}
	}
	if len(own) == 0 {
		return nil
	}
	all, err := os.ReadDir("/proc")
	if err != nil {
		return err
	}
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || slices.Contains(pids, pid) {
			continue
		}
		for _, link := range openFiles(entry.Name()) {
			if what := own[link]; what != "" {
				return fmt.Errorf("%s, which process %d outside holds too: %w", what, pid, ErrForeign)
			}
		}
	}
	return nil
}

// isShared says whether a link of /proc/PID/fd names something that has two ends or several holders.
func isShared(link string) bool {
	return strings.HasPrefix(link, "pipe:[") || strings.HasPrefix(link, "socket:[")
}

// openFiles lists what a process has open, by number. A process that ends meanwhile has nothing.
func openFiles(pid string) map[string]string {
	dir := filepath.Join("/proc", pid, "fd")
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	files := make(map[string]string, len(list))
	for _, entry := range list {
		if link, err := os.Readlink(filepath.Join(dir, entry.Name())); err == nil {
			files[entry.Name()] = link
		}
	}
	return files
}
