package restore

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// protect prepares the spec's read-only paths. Those in the kernel's file systems are CRIU's: there they are part of a mount that it makes.
func (s *Staged) protect(o StageOptions) error {
	for n, path := range o.Spec.Linux.ReadonlyPaths {
		path = filepath.Clean(path)
		source, err := s.locate(path)
		if err != nil {
			return err
		}
		if _, missing := os.Stat(source); source == "" || missing != nil {
			continue
		}
		e := External{path, filepath.Join(o.Dir, "readonly", strconv.Itoa(n))}
		if err := s.bind(e, source, syscall.MS_RDONLY|syscall.MS_REC, private); err != nil {
			return err
		}
	}
	return nil
}

// mask prepares what hides the spec's masked paths: an empty read-only tmpfs for a directory, the null device for a file. CRIU asks only for those that the
// image has.
func (s *Staged) mask(o StageOptions) error {
	if len(o.Spec.Linux.MaskedPaths) == 0 {
		return nil
	}
	empty := filepath.Join(o.Dir, "masked")
	err := s.mount(empty, func(target string) error {
		return linux.Tmpfs(target, "tmpfs", syscall.MS_RDONLY, "nr_blocks=1,nr_inodes=1")
	})
	if err != nil {
		return err
	}
	for _, path := range o.Spec.Linux.MaskedPaths {
		path = filepath.Clean(path)
		below, err := s.locate(path)
		if err != nil {
			return err
		}
		if below == "" {
			// The kernel's file systems have the same files everywhere.
			below = path
		}
		info, err := os.Stat(below)
		switch {
		case err != nil:
			continue
		case info.IsDir():
			s.Mounts = append(s.Mounts, External{path, empty})
		default:
			s.Mounts = append(s.Mounts, External{path, s.nullDevice()})
		}
	}
	return nil
}

// nullDevice is the container's own null device, or the host's when the container has no /dev of its own.
func (s *Staged) nullDevice() string {
	for _, m := range s.Mounts {
		if m.Point == "/dev" {
			return filepath.Join(m.Source, "null")
		}
	}
	return "/dev/null"
}

// cgroups prepares what runc shows of the cgroup file systems. On a host with v1 hierarchies that is the container's own cgroup in each of them, in a tmpfs.
// On a v2 host it is the tree, from the container's own cgroup on when it has a cgroup namespace.
func (s *Staged) cgroups(o StageOptions, source string, m specs.Mount) error {
	roots, err := linux.Hierarchies()
	if err != nil {
		return err
	}
	flags, _, _ := linux.ParseMountOptions(m.Options)
	v1, unified := roots[:len(roots)-1], roots[len(roots)-1]
	if len(v1) == 0 {
		tree := unified
		if HasCgroupNS(o.Spec) {
			tree = filepath.Join(unified, o.Cgroup.Path)
		}
		return s.bind(External{m.Destination, source}, tree, flags, private)
	}
	err = s.mount(source, func(target string) error { return linux.Tmpfs(target, "tmpfs", flags&^syscall.MS_RDONLY, "mode=755") })
	if err != nil {
		return err
	}
	if err := s.offer(External{m.Destination, source}); err != nil {
		return err
	}
	for _, root := range v1 {
		name := filepath.Base(root)
		e := External{filepath.Join(m.Destination, name), source + "-" + name}
		if err := s.bind(e, filepath.Join(root, o.Cgroup.Path), flags, private); err != nil {
			return err
		}
		// A hierarchy of several controllers is found by the name of each.
		for _, controller := range strings.Split(name, ",") {
			if controller == name {
				break
			}
			if err := os.Symlink(name, filepath.Join(source, controller)); err != nil {
				return err
			}
		}
	}
	return nil
}

// HasCgroupNS says whether a container has a cgroup namespace of its own.
func HasCgroupNS(spec *specs.Spec) bool {
	return spec.Linux != nil && slices.ContainsFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == specs.CgroupNamespace })
}
