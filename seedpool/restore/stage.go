package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	securejoin "github.com/cyphar/filepath-securejoin"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// StageOptions say what to prepare for an instance.
type StageOptions struct {
	// Dir is a directory of the instance's own.
	Dir string
	// ImagesDir holds the image: the files that its tmpfs mounts had are in it.
	ImagesDir string
	// Overlay are the options of the overlay mount that becomes the root.
	Overlay []string
	// Spec is the one that the image was dumped with.
	Spec *specs.Spec
	// Cgroup is the instance's: what a spec that asks for cgroups to be mounted shows.
	Cgroup linux.Cgroup
}

// Staged is the mount tree of one instance, prepared outside CRIU below a directory. It is needed until Restore returns.
type Staged struct {
	// Root is where the root file system is mounted.
	Root string
	// Mounts are the sources of what CRIU binds into it.
	Mounts []External
	// points are all mount points in the order in which they are mounted, with an empty source for those that CRIU mounts.
	points []External
	// mounted is what Unstage takes down, in the order in which it was mounted.
	mounted []string
}

// External is a mount of an instance that CRIU binds: Point inside the container, Source where Stage has prepared it.
type External struct {
	Point, Source string
}

// Stage mounts an instance's root file system and everything that the spec mounts over it and CRIU does not make itself. It runs in the caller's mount
// namespace, which should be a private one (Isolate). On an error nothing stays mounted.
func Stage(o StageOptions) (_ *Staged, err error) {
	s := &Staged{Root: filepath.Join(o.Dir, "root")}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("stage mounts: %w", err), s.Unstage())
		}
	}()
	if err := show(append(overlayDirs(o.Overlay), o.Dir, o.ImagesDir)...); err != nil {
		return nil, err
	}
	if err := s.mount(s.Root, func(target string) error { return linux.Overlay(target, o.Overlay) }); err != nil {
		return nil, err
	}
	for i, m := range o.Spec.Mounts {
		if m.Destination, err = resolve(s.Root, m.Destination); err != nil {
			return nil, err
		}
		if err := s.stage(o, i, m); err != nil {
			return nil, fmt.Errorf("%s: %w", m.Destination, err)
		}
	}
	if o.Spec.Linux != nil {
		if err := errors.Join(s.protect(o), s.mask(o)); err != nil {
			return nil, err
		}
	}
	if o.Spec.Root != nil && o.Spec.Root.Readonly {
		return s, linux.Remount(s.Root, syscall.MS_RDONLY)
	}
	return s, nil
}

// Unstage takes the prepared mounts down. What a restored instance has bound stays with it.
func (s *Staged) Unstage() error {
	var errs []error
	for _, target := range slices.Backward(s.mounted) {
		errs = append(errs, linux.Unmount(target))
	}
	s.mounted = nil
	return errors.Join(errs...)
}

// resolve is where a path of the container leads to: an image may have a link to /run at /var/run.
func resolve(root, path string) (string, error) {
	full, err := securejoin.SecureJoin(root, path)
	if err != nil {
		return "", err
	}
	rel, err := filepath.Rel(root, full)
	return filepath.Join("/", rel), err
}

// stage prepares the spec's n-th mount on a directory of its own: CRIU puts them into each other.
func (s *Staged) stage(o StageOptions, n int, m specs.Mount) error {
	if native[m.Type] {
		return s.place(External{Point: m.Destination}, true)
	}
	source := filepath.Join(o.Dir, "mounts", strconv.Itoa(n))
	if m.Type == "cgroup" || m.Type == "cgroup2" {
		return s.cgroups(o, source, m)
	}
	flags, propagation, data := linux.ParseMountOptions(m.Options)
	if linux.IsBind(m.Type, m.Options) {
		if data != "" {
			return fmt.Errorf("unknown mount options %q", data)
		}
		return s.volume(o.Spec, External{m.Destination, source}, m.Source, flags, propagation)
	}
	// A copy of what lies below is among the files that are unpacked.
	data = strings.Join(slices.DeleteFunc(strings.Split(data, ","), func(option string) bool { return option == "tmpcopyup" }), ",")
	err := s.mount(source, func(target string) error { return linux.Mount(m.Source, target, m.Type, flags, data) })
	if err == nil && m.Destination == "/dev" {
		err = fillDev(source, o.Spec)
	}
	if err == nil && m.Type == "tmpfs" {
		err = unpack(packed(o.ImagesDir, n), source)
	}
	if err != nil {
		return err
	}
	return s.offer(External{m.Destination, source})
}

// private mounts have no part in the host's mount events, following ones see them and show it none of their own.
const (
	private   = syscall.MS_PRIVATE | syscall.MS_REC
	following = syscall.MS_SLAVE | syscall.MS_REC
)

// mount makes a mount point and mounts on it. What is mounted has no part in the host's mount events, as in a container of runc's.
func (s *Staged) mount(target string, mount func(target string) error) error {
	if err := os.MkdirAll(target, 0o700); err != nil {
		return err
	}
	return s.mountOver(target, private, mount)
}

func (s *Staged) mountOver(target string, propagation uintptr, mount func(target string) error) error {
	if err := mount(target); err != nil {
		return err
	}
	s.mounted = append(s.mounted, target)
	return linux.Mount("", target, "", propagation, "")
}

// volume is a bind mount of the spec's. As with runc it follows what it shows, unless the spec says otherwise of it or of all mounts. What CRIU binds, or a tree has, of the
// prepared one takes the same part in mount events.
func (s *Staged) volume(spec *specs.Spec, e External, source string, flags, propagation uintptr) error {
	first := uintptr(following)
	switch all := spec.Linux.RootfsPropagation; {
	case all == "rprivate":
		first = private
	case all != "" && all != "rslave", propagation&syscall.MS_UNBINDABLE != 0:
		return fmt.Errorf("a woken container cannot have propagation %q of its mounts, or one that is unbindable", all)
	}
	if err := s.bind(e, source, flags, first); err != nil || propagation == 0 {
		return err
	}
	return linux.Mount("", e.Source, "", propagation, "")
}

// bind offers a file or directory of the host; a file needs a file to be mounted on.
func (s *Staged) bind(e External, source string, flags, propagation uintptr) error {
	if err := show(source); err != nil {
		return err
	}
	info, err := os.Stat(source)
	if err != nil {
		return err
	}
	if err := MakePoint(e.Source, info.IsDir(), 0o700); err != nil {
		return err
	}
	bind := func(target string) error { return linux.Bind(source, target, false, flags&syscall.MS_REC != 0) }
	if err := s.mountOver(e.Source, propagation, bind); err != nil {
		return err
	}
	if keep := flags &^ (syscall.MS_BIND | syscall.MS_REC); keep != 0 {
		if err := linux.Remount(e.Source, keep); err != nil {
			return err
		}
	}
	return s.offer(e)
}

// offer makes a prepared mount one of those that CRIU binds.
func (s *Staged) offer(e External) error {
	info, err := os.Stat(e.Source)
	if err != nil {
		return err
	}
	s.Mounts = append(s.Mounts, e)
	return s.place(e, info.IsDir())
}

// place makes the mount point of a mount. In a mount of CRIU's there is nothing to make.
func (s *Staged) place(e External, directory bool) error {
	path, err := s.locate(e.Point)
	if err != nil {
		return err
	}
	s.points = append(s.points, e)
	if path == "" {
		return nil
	}
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	return MakePoint(path, directory, 0o755)
}

// locate is where a path of the container is prepared: in the mount it lies on, which is the longest point before it, or the root; "" in a mount of CRIU's.
func (s *Staged) locate(path string) (string, error) {
	on := External{"/", s.Root}
	for _, p := range s.points {
		if len(p.Point) >= len(on.Point) && strings.HasPrefix(path, p.Point+"/") {
			on = p
		}
	}
	if on.Source == "" {
		return "", nil
	}
	rel, err := filepath.Rel(on.Point, path)
	if err != nil {
		return "", err
	}
	// The image's files are not to be trusted: a symlink must not lead out of them.
	return securejoin.SecureJoin(on.Source, rel)
}

// MakePoint makes a directory or an empty file, and the directories above it.
func MakePoint(path string, directory bool, mode os.FileMode) error {
	if directory {
		return os.MkdirAll(path, mode)
	}
	if err := os.MkdirAll(filepath.Dir(path), mode); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}
