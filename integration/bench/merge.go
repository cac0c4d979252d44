package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/prometheus/procfs"

	"github.com/sproutrun/sprout/integration/stack"
)

// mergeSpares is how many spares are booted one by one.
const mergeSpares = 10

// benchMerge sums what ten spares take that were booted on their own: as they are, with equal memory merged, and booted alike, too; and what ksmd worked for that.
func benchMerge(ctx context.Context, s *stack.Stack, r *results) error {
	for _, way := range []struct {
		name  string
		flags []string
	}{{"booted", nil}, {"with-merge", []string{"--merge"}}, {"with-merge-alike", []string{"--merge", "--deterministic"}}} {
		if err := mergeOf(ctx, s, r, way.name, way.flags); err != nil {
			return fmt.Errorf("%s: %w", way.name, err)
		}
	}
	return nil
}

func mergeOf(ctx context.Context, s *stack.Stack, r *results, way string, flags []string) error {
	args := append([]string{"seed", "bake", "--image", stack.Ref("python-demo"), "--name", way, "--ready", "http://:" + port + "/", "--warmup", "10"}, flags...)
	if _, err := s.Sprout(ctx, args...); err != nil {
		return err
	}
	before, err := ksmdSeconds()
	if err != nil {
		return err
	}
	fill := func() error {
		_, err := s.Sprout(ctx, "pool", "set", way, "--spares", fmt.Sprint(mergeSpares), "--wait")
		return err
	}
	if len(flags) > 0 {
		fill = whileFollowing(ctx, s, "merged", fill)
	}
	if err := fill(); err != nil {
		return err
	}
	after, err := ksmdSeconds()
	if err != nil {
		return err
	}
	pids, err := s.SparePIDs()
	if err != nil {
		return err
	}
	sum, one := 0.0, 0.0
	for _, pid := range pids {
		process, err := procfs.NewProc(pid)
		if err != nil {
			return err
		}
		use, err := process.ProcSMapsRollup()
		if err != nil {
			return err
		}
		sum, one = sum+float64(use.Pss)/(1<<20), max(one, float64(use.Rss)/(1<<20))
	}
	r.add("merge", "python", way, "rss_of_1", "MiB", one)
	r.add("merge", "python", way, "pss_of_10", "MiB", sum)
	r.add("merge", "python", way, "pss_of_10_to_1", "ratio", sum/one)
	r.add("merge", "python", way, "ksmd_cpu", "s", after-before)
	_, err = s.Sprout(ctx, "seed", "rm", way)
	return err
}

// whileFollowing does something, and then waits for an event that has come since.
func whileFollowing(ctx context.Context, s *stack.Stack, kind string, do func() error) func() error {
	return func() (err error) {
		c := s.Command(ctx, "sprout", "events")
		out, err := c.StdoutPipe()
		if err != nil {
			return err
		}
		if err := c.Start(); err != nil {
			return err
		}
		defer func() { _ = errors.Join(c.Process.Kill(), c.Wait()) }()
		lines := bufio.NewScanner(out)
		follow := func(kind string) error {
			for lines.Scan() {
				if strings.Contains(lines.Text(), kind) {
					return nil
				}
			}
			return fmt.Errorf("wait for event %s: %w", kind, errors.Join(lines.Err(), ctx.Err()))
		}
		if err := follow("following"); err != nil {
			return err
		}
		if err := do(); err != nil {
			return err
		}
		return follow(kind)
	}
}

// ksmdSeconds is how long the kernel's thread has run since the machine started.
func ksmdSeconds() (float64, error) {
	all, err := procfs.AllProcs()
	if err != nil {
		return 0, err
	}
	for _, process := range all {
		if name, err := process.Comm(); err != nil || name != "ksmd" {
			continue
		}
		stat, err := process.Stat()
		return stat.CPUTime(), err
	}
	return 0, errors.New("the kernel has no ksmd")
}
