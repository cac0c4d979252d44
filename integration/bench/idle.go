package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

const (
	idleSpares = 10
	idleFor    = 10 * time.Second
)

// benchIdle reads the CPU time of every thread of ten frozen spares, waits, and reads it again.
func benchIdle(ctx context.Context, s *stack.Stack, r *results) error {
	if _, err := s.Sprout(ctx, "seed", "bake", "--mode", "clone", "--image", stack.Ref("python-demo"), "--name", "python", "--ready", "http://:"+port+"/", "--warmup", "10"); err != nil {
		return err
	}
	if _, err := s.Sprout(ctx, "pool", "set", "python", "--spares", fmt.Sprint(idleSpares), "--wait"); err != nil {
		return err
	}
	before, threads, err := cpuOf(s)
	if err != nil {
		return err
	}
	if threads < idleSpares {
		return fmt.Errorf("found %d threads of %d spares", threads, idleSpares)
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idleFor):
	}
	after, _, err := cpuOf(s)
	if err != nil {
		return err
	}
	r.add("idle", "python", "thaw", "cpu_of_10_spares_in_10_s", "ns", float64(after-before))
	return nil
}

// cpuOf sums the run time, in nanoseconds, of all threads in the spares' cgroups (field 1 of schedstat).
func cpuOf(s *stack.Stack) (sum int64, threads int, err error) {
	pids, err := s.SparePIDs()
	if err != nil {
		return 0, 0, err
	}
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			return 0, 0, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return 0, 0, err
			}
			n, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
			if err != nil {
				return 0, 0, err
			}
			sum, threads = sum+n, threads+1
		}
	}
	return sum, threads, nil
}
