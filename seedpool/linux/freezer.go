package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops every task of the v2 cgroup and returns when the kernel says that all have stopped. Frozen tasks can be killed, traced and entered.
func (c Cgroup) Freeze(ctx context.Context) error {
	if err := c.SetFrozen(true); err != nil {
		return err
	}
	if err := c.waitEvent(ctx, "frozen", "1"); err != nil {
		return fmt.Errorf("freeze cgroup %s: %w", c.Path, err)
	}
	return nil
}

// Thaw lets the tasks run again. It does not wait: they run within a quarter of a millisecond.
func (c Cgroup) Thaw() error { return c.SetFrozen(false) }

// SetFrozen writes cgroup.freeze and does not wait for the tasks.
func (c Cgroup) SetFrozen(frozen bool) error {
	file, err := c.unified("cgroup.freeze")
	if err != nil {
		return err
	}
	value := "0"
	if frozen {
		value = "1"
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("write freezer of cgroup %s: %w", c.Path, err)
	}
	return nil
}

// Frozen says whether all tasks of the cgroup have stopped; an empty cgroup that was told to freeze is frozen.
func (c Cgroup) Frozen() (bool, error) {
	file, err := c.unified("cgroup.events")
	if err != nil {
		return false, err
	}
	value, err := readEvent(file, "frozen")
	if err != nil {
		return false, fmt.Errorf("read freezer of cgroup %s: %w", c.Path, err)
	}
	return value == "1", nil
}

// waitEvent waits until a line of cgroup.events has a value. The kernel wakes pollers with POLLPRI on every change of the file.
func (c Cgroup) waitEvent(ctx context.Context, name, want string) error {
	path, err := c.unified("cgroup.events")
	if err != nil {
		return err
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return pollUntil(ctx, int(f.Fd()), unix.POLLPRI, func() (bool, error) {
		value, err := readEvent(path, name)
		return value == want, err
	})
}

// readEvent reads one line of a cgroup.events file.
func readEvent(path, name string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(string(data), "\n") {
		if key, value, ok := strings.Cut(line, " "); ok && key == name {
			return value, nil
		}
	}
	return "", fmt.Errorf("%s has no line %q", path, name)
}

// pollSlice bounds one poll, so that a context that ends is noticed although poll knows nothing of it.
const pollSlice = 50 * time.Millisecond

// pollUntil polls a descriptor for events until done says so or the context ends.
func pollUntil(ctx context.Context, fd int, events int16, done func() (bool, error)) error {
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
		if _, err := unix.Poll(fds, int(pollSlice.Milliseconds())); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("poll", err)
		}
	}
}

// idleTimeout is how long a cgroup may stay busy after its last process was seen to end.
const idleTimeout = 5 * time.Second

// rmdirWhenIdle removes an empty cgroup directory. A task that is ending leaves its v1 cgroups a moment after it is reaped, and v1 has no event for it:
// so this looks again, ever less often, until a deadline.
func rmdirWhenIdle(dir string) error {
	deadline := time.Now().Add(idleTimeout)
	for wait := time.Millisecond; ; wait = min(2*wait, 50*time.Millisecond) {
		err := os.Remove(dir)
		if err == nil || errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return err
		}
		<-time.After(wait)
	}
}

// CPU returns the time for which the tasks that are in the cgroup now have run, from each thread's schedstat, which counts on every kind of host.
func (c Cgroup) CPU() (time.Duration, error) {
	pids, err := c.Procs()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ESRCH) {
				continue
			}
			if err != nil {
				return 0, err
			}
			first, _, _ := strings.Cut(string(data), " ")
			ns, err := strconv.ParseInt(first, 10, 64)
			if err != nil {
				return 0, fmt.Errorf("parse %s: %w", file, err)
			}
			sum += time.Duration(ns)
		}
	}
	return sum, nil
}
