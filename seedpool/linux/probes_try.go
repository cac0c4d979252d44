package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// probeTimeout is how long something may take that takes less than a millisecond.
const probeTimeout = 2 * time.Second

// tryInCgroup runs fn with a process in a new v2 cgroup: born there, or moved there.
func tryInCgroup(fn func(ctx context.Context, c Cgroup) error, born bool) (err error) {
	root, err := UnifiedRoot()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp(root, "sprout-probe-")
	if err != nil {
		return fmt.Errorf("%w: make a cgroup: %w", ErrUnknown, err)
	}
	c := Cgroup{Path: "/" + filepath.Base(dir)}
	defer func() { err = errors.Join(err, c.Remove()) }()
	sleeper := exec.Command("sleep", "60")
	if born {
		group, err := c.Open()
		if err != nil {
			return err
		}
		defer group.Close()
		sleeper.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(group.Fd())}
	}
	if err := sleeper.Start(); errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	} else if err != nil {
		return fmt.Errorf("start a process: %w", err)
	}
	defer func() {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}()
	if !born {
		if err := c.AttachUnified(sleeper.Process.Pid); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), probeTimeout)
	defer cancel()
	return fn(ctx, c)
}

func probeFreezer() error {
	return tryInCgroup(func(ctx context.Context, c Cgroup) error { return c.Freeze(ctx) }, false)
}

func probeCgroupKill() error {
	return tryInCgroup(func(ctx context.Context, c Cgroup) error {
		if err := c.Kill(); err != nil {
			return err
		}
		return c.WaitEmpty(ctx)
	}, false)
}

func probeStartInCgroup() error {
	return tryInCgroup(func(_ context.Context, c Cgroup) error {
		pids, err := c.Procs()
		if err == nil && len(pids) != 1 {
			err = errors.New("the process was started elsewhere")
		}
		return err
	}, true)
}

// tryMounts runs fn in a mount namespace that ends with it, with an empty tmpfs at dir.
func tryMounts(fn func(dir string) error) error {
	return Enter(nil, func() error {
		if err := PrivateMounts(); err != nil {
			return err
		}
		dir := os.TempDir()
		if err := Tmpfs(dir, "sprout-probe", 0, "size=1m"); err != nil {
			return err
		}
		return fn(dir)
	})
}

func probeDetachedMount() error {
	return tryMounts(func(dir string) error {
		tree, err := cloneTree(BindMount{Source: dir, Options: []string{"bind", "ro"}})
		if err != nil {
			return err
		}
		defer tree.Close()
		root, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer root.Close()
		return place(tree, root, filepath.Join(dir, "target"))
	})
}

func probeOverlay() error {
	return tryMounts(func(dir string) error {
		for _, name := range []string{"lower", "upper", "work", "merged"} {
			if err := os.Mkdir(filepath.Join(dir, name), 0o700); err != nil {
				return err
			}
		}
		return Overlay(dir+"/merged", []string{"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"})
	})
}

func probeNetNS() error {
	ns, err := NewNetNS()
	if err != nil {
		return err
	}
	return ns.Close()
}

func probeMemfd() error {
	fd, err := unix.MemfdCreate("sprout-probe", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	return unix.Close(fd)
}

func probePidfdExit() error {
	c := exec.Command("sleep", "60")
	if err := c.Start(); err != nil {
		return fmt.Errorf("%w: start a process: %w", ErrUnknown, err)
	}
	p, err := OpenPidfd(c.Process.Pid)
	_ = c.Process.Kill()
	_ = c.Wait()
	if err != nil {
		return err
	}
	defer p.Close()
	status, ok, err := p.ExitStatus()
	if err != nil {
		return err
	}
	if !ok || status.Signal() != unix.SIGKILL {
		return errors.New("the kernel does not tell it")
	}
	return nil
}

// probeTimeNS makes a time namespace for children that the thread never has.
func probeTimeNS() error {
	return Enter(nil, func() error { return os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_NEWTIME)) })
}

func probeSysResource() error {
	has, err := HasCapability(unix.CAP_SYS_RESOURCE)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnknown, err)
	}
	if !has {
		return errors.New("not held")
	}
	return nil
}

// probeFork tries what it takes to clone a process, beside what all rungs need: to learn how it ends, to compare descriptors and to take one from another process.
func probeFork() error {
	if err := probePidfdExit(); err != nil {
		return err
	}
	if _, err := SameDescription(os.Getpid(), 0, os.Getpid(), 0); err != nil {
		return err
	}
	self, err := OpenPidfd(os.Getpid())
	if err != nil {
		return err
	}
	defer self.Close()
	taken, err := self.Descriptor(int(self.file.Fd()))
	if err != nil {
		return err
	}
	return taken.Close()
}
