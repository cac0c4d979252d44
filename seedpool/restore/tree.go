package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
// where only CRIU can.
func (s *Staged) Tree(spec *specs.Spec) (tree *os.File, inner []InnerMount, err error) {
	b := &treeBuilder{Staged: s, spec: spec}
	if b.kernels, err = s.kernels(spec); err != nil {
		return nil, nil, err
	}
	if err := b.attach(); err != nil {
		return nil, nil, err
	}
	if inner, err = b.inner(); err != nil {
		return nil, nil, err
	}
	tree, err = linux.CloneTree(s.Root)
	return tree, inner, err
}

// treeBuilder sorts what was staged. What belongs into a file system of the kernel's cannot be there yet: what hides files of it is mounted later, and the rest (the
// cgroup file systems, below /sys) is carried on the mount point of /proc, one over the other, and moved from there before /proc is mounted.
type treeBuilder struct {
	*Staged
	spec *specs.Spec
	// kernels are the mounts of the kernel's file systems.
	kernels []InnerMount
	// masks hide files in those, carried go into those.
	masks, carried []External
}

// kernels are the mounts of the spec that only a process in the instance's namespaces can make.
func (s *Staged) kernels(spec *specs.Spec) (list []InnerMount, err error) {
	for _, m := range spec.Mounts {
		if !native[m.Type] {
			continue
		}
		flags, _, data := linux.ParseMountOptions(m.Options)
		target, err := resolve(s.Root, m.Destination)
		if err != nil {
			return nil, err
		}
		list = append(list, InnerMount{m.Source, target, m.Type, flags, data})
	}
	return list, nil
}

// attach puts all where it belongs below the root, or where it is carried.
func (b *treeBuilder) attach() error {
	for _, m := range b.Mounts {
		below, err := b.locate(m.Point)
		if err != nil {
			return err
		}
		if below == "" && b.spec.Linux != nil && contains(b.spec.Linux.MaskedPaths, m.Point) {
			b.masks = append(b.masks, m)
			continue
		}
		// Where it lies in the mount that it is in is where it lies below the root: that mount is there already.
		target := filepath.Join(b.Root, m.Point)
		if below == "" {
			b.carried = append(b.carried, m)
		}
		if on := carrier(b.carried, m.Point); on >= 0 {
			if on < len(b.carried)-1 || !b.carries(m.Point) {
				return fmt.Errorf("%s is mounted into a file system of the kernel's: %w", m.Point, ErrNoTemplate)
			}
			target = filepath.Join(b.Root, procDir, strings.TrimPrefix(m.Point, b.carried[on].Point))
		}
		if err := linux.Bind(m.Source, target, false, true); err != nil {
			return fmt.Errorf("attach %s: %w", m.Point, err)
		}
		b.mounted = append(b.mounted, target)
	}
	return nil
}

// procDir is where /proc is to be mounted.
const procDir = "/proc"

// carries says whether something for this place can be carried: /proc is one of the kernels' mounts, and the place is not in it.
func (b *treeBuilder) carries(point string) bool {
	on, proc := over(b.kernels, point), over(b.kernels, procDir)
	return on != nil && proc != nil && on.Target != procDir && proc.Target == procDir
}

// carrier is the carried mount that a path is or lies in; -1: none.
func carrier(carried []External, path string) int {
	return slices.IndexFunc(carried, func(c External) bool { return path == c.Point || strings.HasPrefix(path, c.Point+"/") })
}

// inner lists the mounts of the kernel's file systems, what is moved into them, and what makes parts of them unwritable and unseen.
func (b *treeBuilder) inner() (list []InnerMount, err error) {
	var proc []InnerMount
	for _, k := range b.kernels {
		if k.Target == procDir || strings.HasPrefix(k.Target, procDir+"/") {
			proc = append(proc, k)
		} else {
			list = append(list, k)
		}
	}
	for _, m := range slices.Backward(b.carried) {
		list = append(list, InnerMount{Source: procDir, Target: m.Point, Flags: syscall.MS_MOVE})
	}
	list = append(list, proc...)
	if b.spec.Linux == nil {
		return list, nil
	}
	for _, path := range b.spec.Linux.ReadonlyPaths {
		path = filepath.Clean(path)
		on := over(b.kernels, path)
		if _, err := os.Stat(path); on == nil || err != nil {
			continue
		}
		list = append(list, InnerMount{Source: path, Target: path, Flags: syscall.MS_BIND | syscall.MS_REC},
			InnerMount{Source: path, Target: path, Flags: syscall.MS_BIND | syscall.MS_REMOUNT | syscall.MS_RDONLY | on.Flags})
	}
	for _, m := range b.masks {
		info, err := os.Stat(m.Point) // the kernel's file systems have the same files everywhere
		switch {
		case err != nil:
			return nil, err
		case info.IsDir():
			// Root's, whoever mounts it.
			list = append(list, InnerMount{"tmpfs", m.Point, "tmpfs", syscall.MS_RDONLY, "nr_blocks=1,nr_inodes=1,uid=0,gid=0"})
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
