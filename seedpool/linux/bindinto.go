package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// BindMount is a file or directory of the host that is to appear in a container.
type BindMount struct {
	// Source on the host, Target in the container, Options as the runtime spec has them.
	Source, Target string
	Options        []string
}

// BindInto mounts files and directories of the host into the mount namespace of a process, which may be frozen, one after the other. Sources are found in
// the caller's mount namespace. Targets are resolved below the process's root, where no symlink leads out, and are made when they are missing; a target
// on procfs is refused, as a container must see the real one. An option that is not known is refused too. After an error the mounts before the one
// it names are in place.
//
// As with runc, "ro", "nosuid" and the like say what the mount itself is, not what is mounted below it ("rro" does), and one such option takes away those
// that the source has and the options have not. Without an option for it, mounts made below the source on the host later appear in the container too.
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
			return fmt.Errorf("bind %s on %s: %w", m.Source, m.Target, err)
		}
		trees = append(trees, tree)
	}
	// Not "/" of the namespace: a process that was started with chroot has another root.
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("open root of process %d: %w", pid, err)
	}
	defer root.Close()
	ns, err := NSFile(pid, "mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	return Enter([]NS{{unix.CLONE_NEWNS, ns}}, func() error {
		for i, m := range mounts {
			if err := place(trees[i], root, m.Target); err != nil {
				return fmt.Errorf("bind %s on %s: %w", m.Source, m.Target, err)
			}
		}
		return nil
	})
}

// cloneTree makes a detached copy of the source's mount with the options applied, so that it is never visible without them.
func cloneTree(m BindMount) (*os.File, error) {
	options, err := parseBindOptions(m.Options)
	if err != nil {
		return nil, err
	}
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if options.recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, m.Source, flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: m.Source, Err: err}
	}
	tree := os.NewFile(uintptr(fd), m.Source)
	for _, change := range options.changes() {
		if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH|change.depth, &change.attr); err != nil {
			_ = tree.Close()
			return nil, os.NewSyscallError("mount_setattr", err)
		}
	}
	return tree, nil
}

// place puts a detached tree on its target in the calling thread's mount namespace.
func place(tree, root *os.File, target string) error {
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		return os.NewSyscallError("fstat", err)
	}
	at, err := mountpoint(root, target, st.Mode&unix.S_IFMT == unix.S_IFDIR)
	if err != nil {
		return err
	}
	defer at.Close()
	err = unix.MoveMount(int(tree.Fd()), "", int(at.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}
