package linux

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// BindMount is a file or directory of the host that is to appear in a container.
type BindMount struct {
	// Source on the host, Target in the container, Options as the runtime spec has them.
	Source, Target string
	Options        []string
}

// BindInto mounts files and directories of the host into the mount namespace of a process, which may be frozen. Sources are opened in the caller's
// namespace; targets are resolved inside the container's root, where no symlink leads out, and made when they are missing.
func BindInto(pid int, mounts []BindMount) error {
	if len(mounts) == 0 {
		return nil
	}
	trees := make([]*os.File, 0, len(mounts))
	defer func() {
		for _, tree := range trees {
			_ = tree.Close()
		}
	}()
	for _, m := range mounts {
		tree, err := cloneTree(m)
		if err != nil {
			return err
		}
		trees = append(trees, tree)
	}
	ns, err := NSFile(pid, "mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	return Enter([]NS{{unix.CLONE_NEWNS, ns}}, func() error {
		for i, m := range mounts {
			if err := place(trees[i], m); err != nil {
				return err
			}
		}
		return nil
	})
}

// cloneTree makes a detached copy of the source's mount with the options applied, so that it is never visible without them.
func cloneTree(m BindMount) (*os.File, error) {
	flags, propagation, data := ParseMountOptions(m.Options)
	if data != "" {
		return nil, fmt.Errorf("bind %s: unknown mount options %q", m.Target, data)
	}
	recursive := uint(0)
	if flags&unix.MS_REC != 0 {
		recursive = unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|recursive)
	if err != nil {
		return nil, fmt.Errorf("bind %s: %w", m.Target, &os.PathError{Op: "open_tree", Path: m.Source, Err: err})
	}
	tree := os.NewFile(uintptr(fd), m.Source)
	attr := unix.MountAttr{Attr_set: attributes(flags), Propagation: uint64(propagation &^ unix.MS_REC)}
	if attr.Propagation == 0 {
		attr.Propagation = unix.MS_PRIVATE
	}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|recursive, &attr); err != nil {
		return nil, errors.Join(fmt.Errorf("bind %s: %w", m.Target, os.NewSyscallError("mount_setattr", err)), tree.Close())
	}
	return tree, nil
}

// attributes are the mount flags in the numbers of mount_setattr.
func attributes(flags uintptr) (attr uint64) {
	for _, pair := range []struct {
		flag uintptr
		attr uint64
	}{{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY}, {unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID}, {unix.MS_NODEV, unix.MOUNT_ATTR_NODEV}, {unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC}} {
		if flags&pair.flag != 0 {
			attr |= pair.attr
		}
	}
	return attr
}

// place puts a detached tree on its target in the calling thread's mount namespace.
func place(tree *os.File, m BindMount) error {
	target, err := mountpoint(m.Target, isDirectory(tree))
	if err != nil {
		return fmt.Errorf("bind %s: %w", m.Target, err)
	}
	defer target.Close()
	err = unix.MoveMount(int(tree.Fd()), "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("bind %s: %w", m.Target, os.NewSyscallError("move_mount", err))
	}
	return nil
}

func isDirectory(f *os.File) bool {
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

// mountpoint opens a path below the root of the calling thread and makes what is missing of it, one element at a time.
func mountpoint(target string, directory bool) (*os.File, error) {
	root, err := openIn(unix.AT_FDCWD, "/", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	at := root
	parts := strings.Split(strings.Trim(path.Clean("/"+target), "/"), "/")
	for i := range parts {
		last := i == len(parts)-1
		// Every step is resolved from the root, so that an absolute symlink in the middle leads to the container's own file.
		next, err := openIn(int(root.Fd()), strings.Join(parts[:i+1], "/"), unix.O_PATH)
		if errors.Is(err, unix.ENOENT) {
			if err = makeEntry(at, parts[i], directory || !last); err == nil {
				next, err = openIn(int(root.Fd()), strings.Join(parts[:i+1], "/"), unix.O_PATH)
			}
		}
		if at != root {
			_ = at.Close()
		}
		if err != nil {
			_ = root.Close()
			return nil, err
		}
		at = next
	}
	if at != root {
		_ = root.Close()
	}
	return at, nil
}

func makeEntry(dir *os.File, name string, directory bool) error {
	if directory {
		return os.NewSyscallError("mkdirat", unix.Mkdirat(int(dir.Fd()), name, 0o755))
	}
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return &os.PathError{Op: "create", Path: name, Err: err}
	}
	return unix.Close(fd)
}

// openIn opens a path that is not allowed to leave the directory.
func openIn(dir int, name string, flags uint64) (*os.File, error) {
	how := unix.OpenHow{Flags: flags | unix.O_CLOEXEC}
	if dir != unix.AT_FDCWD {
		how.Resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	}
	fd, err := unix.Openat2(dir, name, &how)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}
