package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Freeze stops every task of the v2 cgroup and of those below it and returns when the kernel says that all have stopped. Frozen tasks use no CPU; they can
// be killed, traced and entered.
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
	dir, err := c.unified("")
	if err != nil {
		return err
	}
	value := "0"
	if frozen {
		value = "1"
	}
	if err := writeControl(filepath.Join(dir, "cgroup.freeze"), value); err != nil {
		return fmt.Errorf("write freezer of cgroup %s: %w", c.Path, err)
	}
	return nil
}

// IsToFreeze says whether the tasks of the cgroup are told to stop, whether they have or not: one that v1's freezer holds hears of it later.
func (c Cgroup) IsToFreeze() (bool, error) {
	file, err := c.unified("cgroup.freeze")
	if err != nil {
		return false, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("read freezer of cgroup %s: %w", c.Path, err)
	}
	return strings.TrimSpace(string(data)) == "1", nil
}

// Frozen says whether all tasks of the cgroup have stopped; an empty cgroup that was told to freeze is frozen.
func (c Cgroup) Frozen() (bool, error) {
	file, err := c.unified("cgroup.events")
	if err != nil {
		return false, err
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return false, fmt.Errorf("read freezer of cgroup %s: %w", c.Path, err)
	}
	return flatKey(string(data), "frozen") == "1", nil
}

// waitEvent waits until a line of cgroup.events has a value.
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
	data := make([]byte, 4096)
	return awaitChange(ctx, f, func() (bool, error) {
		n, err := unix.Pread(int(f.Fd()), data, 0)
		if err != nil {
			return false, &os.PathError{Op: "read", Path: path, Err: err}
		}
		value := flatKey(string(data[:n]), name)
		if value == "" {
			return false, fmt.Errorf("%s has no line %q", path, name)
		}
		return value == want, nil
	})
}

// The kernel holds back news of a cgroup until 10 ms after the last (CGROUP_FILE_NOTIFY_MIN_INTV), while a cgroup freezes within 0.2 ms: so the first waits
// are short ones, each twice as long as the one before.
const (
	firstWait = 100 * time.Microsecond
	throttled = 10 * time.Millisecond
)

// awaitChange waits until done says so or ctx ends. done must read the file from its beginning through this descriptor: the kernel wakes a poller with
// POLLPRI when the file has changed since then (kernfs_generic_poll).
func awaitChange(ctx context.Context, f *os.File, done func() (bool, error)) error {
	if ok, err := done(); ok || err != nil {
		return err
	}
	ended, release, err := endOf(ctx)
	if err != nil {
		return err
	}
	defer release()
	fds := []unix.PollFd{{Fd: int32(f.Fd()), Events: unix.POLLPRI}, {Fd: int32(ended.Fd()), Events: unix.POLLIN}}
	for wait := firstWait; ; wait *= 2 {
		var timeout *unix.Timespec
		if wait <= throttled {
			t := unix.NsecToTimespec(wait.Nanoseconds())
			timeout = &t
		}
		if _, err := unix.Ppoll(fds, timeout, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError("ppoll", err)
		}
		if ok, err := done(); ok || err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// endOf returns a descriptor that becomes readable when ctx ends.
func endOf(ctx context.Context) (ended *os.File, release func(), err error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return nil, nil, os.NewSyscallError("eventfd", err)
	}
	f := os.NewFile(uintptr(fd), "end of context")
	// The file may be closed already when ctx ends late: then nobody waits.
	stop := context.AfterFunc(ctx, func() { _, _ = f.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0}) })
	return f, func() { stop(); _ = f.Close() }, nil
}
