package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Staged is the mount tree of one instance, prepared outside CRIU below a directory. It is needed until Restore returns.
type Staged struct {
	// Root is where the root file system is mounted.
	Root string
	// Mounts are the sources of what CRIU binds into it.
	Mounts []External
	// mounted is what Unstage takes down, in the order in which it was mounted.
	mounted []string
}

// Stage mounts an instance's root file system and everything that the spec mounts over it and CRIU does not make itself. It runs in the caller's mount
// namespace, which should be a private one (Isolate). On an error nothing stays mounted.
func Stage(dir string, overlay []string, spec *specs.Spec) (_ *Staged, err error) {
	s := &Staged{Root: filepath.Join(dir, "root")}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Unstage())
		}
	}()
	if err := s.mount(s.Root, func(target string) error { return linux.Overlay(target, overlay) }); err != nil {
		return nil, err
	}
	if spec.Root != nil && spec.Root.Readonly {
		if err := linux.Remount(s.Root, syscall.MS_RDONLY); err != nil {
			return nil, err
		}
	}
	if err := s.mountAll(dir, spec); err != nil {
		return nil, err
	}
	return s, s.mask(dir, spec)
}

// Unstage takes the prepared mounts down. What a restored instance has bound stays with it.
func (s *Staged) Unstage() error {
	var errs []error
	for i := len(s.mounted) - 1; i >= 0; i-- {
		errs = append(errs, linux.Unmount(s.mounted[i]))
	}
	s.mounted = nil
	return errors.Join(errs...)
}

// mount makes a mount point and mounts on it.
func (s *Staged) mount(target string, mount func(target string) error) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	if err := mount(target); err != nil {
		return err
	}
	s.mounted = append(s.mounted, target)
	return nil
}

// mountAll prepares the spec's mounts, each on a directory of its own: CRIU puts them into each other.
func (s *Staged) mountAll(dir string, spec *specs.Spec) error {
	for i, m := range spec.Mounts {
		m.Destination = filepath.Clean(m.Destination)
		if native[m.Type] {
			// CRIU mounts it, but somewhere.
			if err := s.placeFor(m.Destination, dir); err != nil {
				return err
			}
			continue
		}
		source := filepath.Join(dir, "mounts", strconv.Itoa(i))
		if err := s.mountOne(source, m, spec); err != nil {
			return err
		}
		if err := s.placeFor(m.Destination, source); err != nil {
			return err
		}
		s.Mounts = append(s.Mounts, External{Point: m.Destination, Source: source})
	}
	return nil
}

func (s *Staged) mountOne(target string, m specs.Mount, spec *specs.Spec) error {
	flags, _, data := linux.ParseMountOptions(m.Options)
	if flags&syscall.MS_BIND != 0 || m.Type == "bind" {
		return s.bind(target, m.Source, flags)
	}
	err := s.mount(target, func(target string) error { return linux.Mount(m.Source, target, m.Type, flags, data) })
	if err != nil || m.Destination != "/dev" {
		return err
	}
	return fillDev(target, spec)
}

// bind mounts a file or directory of the host; a file needs a file to be mounted on.
func (s *Staged) bind(target, source string, flags uintptr) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("stage mount: %w", err)
	}
	if !info.IsDir() {
		if err := emptyFile(target); err != nil {
			return err
		}
	} else if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	if err := linux.Bind(source, target, false, flags&syscall.MS_REC != 0); err != nil {
		return err
	}
	s.mounted = append(s.mounted, target)
	if keep := flags &^ (syscall.MS_BIND | syscall.MS_REC); keep != 0 {
		return linux.Remount(target, keep)
	}
	return nil
}

// placeFor makes the mount point of a mount, a directory or a file like its source, in the mount it lies on: the longest destination before it, or the root.
func (s *Staged) placeFor(point, source string) error {
	below, under := s.Root, "/"
	for _, m := range s.Mounts {
		if len(m.Point) > len(under) && len(point) > len(m.Point) && point[:len(m.Point)+1] == m.Point+"/" {
			below, under = m.Source, m.Point
		}
	}
	rel, err := filepath.Rel(under, point)
	if err != nil {
		return err
	}
	// The image's files are not to be trusted: a symlink must not lead out of them.
	path, err := securejoin.SecureJoin(below, rel)
	if err != nil {
		return err
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.MkdirAll(path, 0o755)
	}
	return emptyFile(path)
}

func emptyFile(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// mask prepares what hides the spec's masked paths: an empty read-only tmpfs for a directory, the null device for a file. Restore asks only for those that the
// image has.
func (s *Staged) mask(dir string, spec *specs.Spec) error {
	if spec.Linux == nil || len(spec.Linux.MaskedPaths) == 0 {
		return nil
	}
	empty := filepath.Join(dir, "masked")
	if err := s.mount(empty, func(target string) error { return linux.Tmpfs(target, "tmpfs", syscall.MS_RDONLY, "") }); err != nil {
		return err
	}
	for _, path := range spec.Linux.MaskedPaths {
		path = filepath.Clean(path)
		info, err := os.Stat(path)
		switch {
		case err != nil:
			continue
		case info.IsDir():
			s.Mounts = append(s.Mounts, External{Point: path, Source: empty})
		default:
			s.Mounts = append(s.Mounts, External{Point: path, Source: s.nullDevice()})
		}
	}
	return nil
}

// nullDevice is the container's own null device, or the host's when the container brings its own /dev.
func (s *Staged) nullDevice() string {
	for _, m := range s.Mounts {
		if m.Point == "/dev" {
			return filepath.Join(m.Source, "null")
		}
	}
	return "/dev/null"
}
