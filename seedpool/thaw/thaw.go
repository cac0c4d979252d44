// Package thaw is the fastest rung: an instance that was made earlier stands frozen in its cgroup, and one write lets it run.
//
// Life of an instance here: it is made stopped by another mechanism, Hold freezes it, it uses no CPU while it waits, Ready says whether it still can be
// claimed, Release lets it run. Only the cgroup v2 freezer is used: tasks in a v1 freezer can be neither killed nor traced.
package thaw

import (
	"context"
	"errors"
	"fmt"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// ErrGone means that the instance's process has ended.
var ErrGone = errors.New("instance has ended")

// Hold freezes every task of the cgroup and returns when all have stopped.
func Hold(ctx context.Context, c linux.Cgroup) error { return c.Freeze(ctx) }

// Release lets the instance run. The first instruction follows about 0.2 ms later.
func Release(c linux.Cgroup) error { return c.Thaw() }

// Ready says whether an instance can be claimed: its init is the process that it was and all of it is frozen.
func Ready(c linux.Cgroup, pid int, start uint64) error {
	if !linux.Alive(pid, start) {
		return fmt.Errorf("check instance in %s: %w", c.Path, ErrGone)
	}
	frozen, err := c.Frozen()
	if err != nil {
		return err
	}
	if !frozen {
		return fmt.Errorf("check instance in %s: it is not frozen", c.Path)
	}
	return nil
}
