package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// CloneTree copies the mounts at a path, with all below it, into a tree that is attached nowhere: whoever has the file can attach it in a mount namespace of
// his own. The mounts at the path may be taken away afterwards.
func CloneTree(path string) (*os.File, error) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return nil, fmt.Errorf("copy mounts at %s: %w", path, os.NewSyscallError("open_tree", err))
	}
	return os.NewFile(uintptr(fd), path), nil
}

// AttachTree puts a tree that is attached nowhere on a directory, in the calling thread's mount namespace.
func AttachTree(tree *os.File, target string) error {
	if err := unix.MoveMount(int(tree.Fd()), "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("attach mounts at %s: %w", target, os.NewSyscallError("move_mount", err))
	}
	return nil
}
