package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// InnerMount is a mount that only a process with the instance's own namespaces can make: what it shows, or where it lies, depends on them. The fields are what mount(2)
// takes.
type InnerMount struct {
	Source, Target, Type string
	Flags                uintptr
	Data                 string
}

// Tree is what was staged as one tree of mounts that is attached nowhere, and what is left to be mounted in it, in this order. ErrNoTemplate: the spec mounts something
// into a file system of the kernel's.
func (s *Staged) Tree(spec *specs.Spec) (tree *os.File, inner []InnerMount, err error) {
	masks, err := s.attach()
	if err != nil {
		return nil, nil, err
	}
	if inner, err = s.inner(spec, masks); err != nil {
		return nil, nil, err
	}
	tree, err = linux.CloneTree(s.Root)
	return tree, inner, err
}

// attach puts all that was staged where it belongs below the root, but for what hides files of the kernel's file systems, which it returns.
func (s *Staged) attach() (masks []External, err error) {
	for _, m := range s.Mounts {
		below, err := s.locate(m.Point)
		if err != nil {
			return nil, err
		}
		if below == "" {
			masks = append(masks, m)
			continue
		}
		// Where it lies in the mount that it is in is where it lies below the root: that mount is there already.
		target := filepath.Join(s.Root, m.Point)
		if err := linux.Bind(m.Source, target, false, true); err != nil {
			return nil, fmt.Errorf("attach %s: %w", m.Point, err)
		}
		s.mounted = append(s.mounted, target)
	}
	return masks, nil
}

// inner lists the mounts of the kernel's file systems, and what makes parts of them unwritable and unseen.
func (s *Staged) inner(spec *specs.Spec, masks []External) (list []InnerMount, err error) {
	var kernels []InnerMount
	for _, m := range spec.Mounts {
		if !native[m.Type] {
			continue
		}
		flags, _, data := linux.ParseMountOptions(m.Options)
		target, err := resolve(s.Root, m.Destination)
		if err != nil {
			return nil, err
		}
		kernels = append(kernels, InnerMount{m.Source, target, m.Type, flags, data})
	}
	list = kernels
	if spec.Linux == nil {
		return list, nil
	}
	for _, path := range spec.Linux.ReadonlyPaths {
		path = filepath.Clean(path)
		on := over(kernels, path)
		if _, err := os.Stat(path); on == nil || err != nil {
			continue
		}
		list = append(list, InnerMount{Source: path, Target: path, Flags: syscall.MS_BIND | syscall.MS_REC},
			InnerMount{Source: path, Target: path, Flags: syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY | on.Flags})
	}
	for _, m := range masks {
		info, err := os.Stat(m.Point) // the kernel's file systems have the same files everywhere
		switch {
		case !contains(spec.Linux.MaskedPaths, m.Point):
			return nil, fmt.Errorf("%s is mounted into a file system of the kernel's: %w", m.Point, ErrNoTemplate)
		case err != nil:
			return nil, err
		case info.IsDir():
			list = append(list, InnerMount{"tmpfs", m.Point, "tmpfs", syscall.MS_RDONLY, "nr_blocks=1,nr_inodes=1"})
		default:
			list = append(list, InnerMount{Source: "/dev/null", Target: m.Point, Flags: syscall.MS_BIND})
		}
	}
	return list, nil
}

// over is the mount that a path lies in.
func over(mounts []InnerMount, path string) *InnerMount {
	for n := range mounts {
		if path == mounts[n].Target || strings.HasPrefix(path, mounts[n].Target+"/") {
			return &mounts[n]
		}
	}
	return nil
}

func contains(paths []string, path string) bool {
	for _, p := range paths {
		if filepath.Clean(p) == path {
			return true
		}
	}
	return false
}
