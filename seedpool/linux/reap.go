package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// AdoptOrphans makes the calling process the parent of every process below it whose own parent ends, instead of the host's init.
func AdoptOrphans() error {
	return os.NewSyscallError("prctl PR_SET_CHILD_SUBREAPER", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// ReapIn waits for those children of the calling process that live, or have lived, in a cgroup. They have been killed: else it waits as long as ctx lets it.
func ReapIn(ctx context.Context, c Cgroup) error {
	children, err := Children(os.Getpid())
	if err != nil {
		return err
	}
	for _, pid := range children {
		if path, err := UnifiedPath(pid); err == nil && path == filepath.Clean(c.Path) {
			if _, err := Reap(ctx, pid); err != nil {
				return err
			}
		}
	}
	return nil
}

// Reap waits for a child to end and gives its status. One that another has waited for is ECHILD.
func Reap(ctx context.Context, pid int) (status syscall.WaitStatus, err error) {
	p, err := OpenPidfd(pid)
	if errors.Is(err, unix.ESRCH) {
		return 0, fmt.Errorf("reap process %d: %w", pid, unix.ECHILD)
	}
	if err != nil {
		return 0, err
	}
	if err := errors.Join(p.Wait(ctx), p.Close()); err != nil {
		return 0, err
	}
	if _, err := syscall.Wait4(pid, &status, 0, nil); err != nil {
		return 0, fmt.Errorf("reap process %d: %w", pid, err)
	}
	return status, nil
}
