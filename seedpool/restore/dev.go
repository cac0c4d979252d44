package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// devices are in every container, as the runtime spec demands.
var devices = []specs.LinuxDevice{
	{Path: "/dev/null", Type: "c", Major: 1, Minor: 3},
	{Path: "/dev/zero", Type: "c", Major: 1, Minor: 5},
	{Path: "/dev/full", Type: "c", Major: 1, Minor: 7},
	{Path: "/dev/random", Type: "c", Major: 1, Minor: 8},
	{Path: "/dev/urandom", Type: "c", Major: 1, Minor: 9},
	{Path: "/dev/tty", Type: "c", Major: 5, Minor: 0},
}

// kcore is the link that runc makes only on kernels that have its target.
const kcore = "core"

// links are the symlinks that runc makes in /dev.
var links = [][2]string{
	{"/proc/kcore", kcore},
	{"/proc/self/fd", "fd"},
	{"/proc/self/fd/0", "stdin"},
	{"/proc/self/fd/1", "stdout"},
	{"/proc/self/fd/2", "stderr"},
	{"pts/ptmx", "ptmx"},
}

// fillDev puts device nodes, links and mount points into a container's fresh /dev.
func fillDev(dir string, spec *specs.Spec) error {
	list := devices
	if spec.Linux != nil {
		list = append(list[:len(list):len(list)], spec.Linux.Devices...)
	}
	made := map[string]bool{}
	for _, d := range list {
		rel, err := filepath.Rel("/dev", d.Path)
		if err != nil || made[rel] {
			continue
		}
		made[rel] = true
		if err := makeDevice(filepath.Join(dir, rel), d); err != nil {
			return err
		}
	}
	for _, link := range links {
		if _, err := os.Lstat(link[0]); link[1] == kcore && err != nil {
			continue
		}
		if err := os.Symlink(link[0], filepath.Join(dir, link[1])); err != nil {
			return err
		}
	}
	return nil
}

// isDevLink says whether a name in /dev is one of the usual links.
func isDevLink(name string) bool {
	return slices.ContainsFunc(links, func(link [2]string) bool { return link[1] == name })
}

func makeDevice(path string, d specs.LinuxDevice) error {
	mode := os.FileMode(0o666)
	if d.FileMode != nil {
		mode = d.FileMode.Perm()
	}
	var uid, gid int
	if d.UID != nil {
		uid = int(*d.UID)
	}
	if d.GID != nil {
		gid = int(*d.GID)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	if err := linux.MakeNode(path, d.Type, d.Major, d.Minor); err != nil {
		return fmt.Errorf("make device %s: %w", d.Path, err)
	}
	// Neither the umask nor the creator's ids are to show.
	if err := os.Chmod(path, mode); err != nil {
		return err
	}
	return os.Lchown(path, uid, gid)
}
