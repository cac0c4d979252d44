package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Expose mounts the root of a process's mount namespace a second time, on a directory of the caller's namespace. What is mounted below that root does not
// come along: the directory shows the root file system alone. Unmount ends it.
func Expose(pid int, target string) error {
	ns, err := NSFile(pid, "mnt")
	if err != nil {
		return fmt.Errorf("expose root of %d: %w", pid, err)
	}
	defer ns.Close()
	tree := -1
	err = Enter([]NS{{unix.CLONE_NEWNS, ns}}, func() (err error) {
		tree, err = unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		return os.NewSyscallError("open_tree", err)
	})
	if err != nil {
		return fmt.Errorf("expose root of %d: %w", pid, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("expose root of %d on %s: %w", pid, target, os.NewSyscallError("move_mount", err))
	}
	return nil
}
