// Package thaw is the fastest rung: an instance that was made earlier stands frozen in its cgroup, and one write lets it run.
//
// Life of an instance here: it is made stopped by another mechanism, Hold freezes it, it uses no CPU while it waits, Ready says whether it still can be
// claimed, Release lets it run. Only the cgroup v2 freezer is used: tasks in a v1 freezer can be neither killed nor traced.
package thaw

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// ErrGone means that the instance's process has ended.
var ErrGone = errors.New("instance has ended")

// Hold freezes every task of the cgroup and returns when all have stopped.
func Hold(ctx context.Context, c linux.Cgroup) error { return c.Freeze(ctx) }

// Release lets the instance run. Its first instruction follows about 0.2 ms later.
func Release(c linux.Cgroup) error { return c.Thaw() }

// Ready says whether an instance can be claimed: its init is the process that it was, is in the cgroup or below it, and all of that is frozen.
func Ready(c linux.Cgroup, pid int, start uint64) error {
	frozen, err := c.Frozen()
	if err != nil {
		return fmt.Errorf("check instance: %w", err)
	}
	if !frozen {
		return fmt.Errorf("check instance in %s: it is not frozen", c.Path)
	}
	// An empty cgroup is frozen too.
	where, err := linux.UnifiedPath(pid)
	if err == nil && where != c.Path && !strings.HasPrefix(where, c.Path+"/") {
		err = fmt.Errorf("process %d is in %s", pid, where)
	}
	// Only now: what was read of a pid counts if it was this process's.
	if !linux.Alive(pid, start) {
		err = ErrGone
	}
	if err != nil {
		return fmt.Errorf("check instance in %s: %w", c.Path, err)
	}
	return nil
}
