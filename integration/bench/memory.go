package main

import (
	"context"
	"fmt"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/prometheus/procfs"

	"github.com/sproutrun/sprout/integration/stack"
)

// memoryInstances is how many instances of one seed are alive at the same time.
const memoryInstances = 10

// benchMemory sums what ten restored instances of one seed take after one reply each, beside what one container of stock runc takes then.
func benchMemory(ctx context.Context, s *stack.Stack, r *results) error {
	for _, a := range apps {
		fmt.Fprintf(os.Stderr, "bench: memory: %s\n", a.name)
		if err := memoryOf(ctx, s, r, a); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

func memoryOf(ctx context.Context, s *stack.Stack, r *results, a app) error {
	base := rung{name: baseRung, runtime: stack.RuncRuntime, snapshotter: stack.OverlaySnapshotter}
	alone, _, err := answering(ctx, s, a, base, a.name+"-alone")
	if err != nil {
		return err
	}
	one, err := pssOf(s.Context(ctx), alone)
	if err != nil {
		return err
	}
	if err := s.RemoveAll(ctx); err != nil {
		return err
	}
	if err := bakeForRestores(ctx, s, a); err != nil {
		return err
	}
	var tasks []containerd.Task
	for i := range memoryInstances {
		task, reply, err := answering(ctx, s, a, restored, fmt.Sprintf("%s-memory-%d", a.name, i))
		if err != nil {
			return err
		}
		tasks = append(tasks, task)
		r.add("memory", a.name, restored.name, "first_reply_ms", "ms", reply)
	}
	sum, err := pssOfAll(s.Context(ctx), tasks)
	if err != nil {
		return err
	}
	r.add("memory", a.name, baseRung, "pss_of_1", "MiB", one)
	r.add("memory", a.name, restored.name, "pss_of_10", "MiB", sum)
	r.add("memory", a.name, restored.name, "pss_of_10_to_1", "ratio", sum/one)
	if err := s.RemoveAll(ctx); err != nil {
		return err
	}
	_, err = s.Sprout(ctx, "seed", "rm", a.name)
	return err
}

// answering starts a container that stays, waits for its first reply and says how long that took since before its snapshot was made.
func answering(ctx context.Context, s *stack.Stack, a app, g rung, id string) (containerd.Task, float64, error) {
	from := time.Now()
	task, err := startOf(s.Context(ctx), s, a, g, id)
	if err != nil {
		return nil, 0, err
	}
	if err := stack.AwaitReply(ctx, int(task.Pid()), port, time.Minute); err != nil {
		return nil, 0, err
	}
	return task, ms(time.Since(from)), confirm(s, g, id)
}

// pssOfAll is what several containers take of memory, in MiB.
func pssOfAll(ctx context.Context, tasks []containerd.Task) (mib float64, err error) {
	for _, task := range tasks {
		one, err := pssOf(ctx, task)
		if err != nil {
			return 0, err
		}
		mib += one
	}
	return mib, nil
}

// pssOf is what the processes of a container take of memory, in MiB; what n share counts as one n-th for each.
func pssOf(ctx context.Context, task containerd.Task) (mib float64, err error) {
	pids, err := task.Pids(ctx)
	if err != nil {
		return 0, err
	}
	for _, p := range pids {
		one, err := pss(int(p.Pid))
		if err != nil {
			return 0, err
		}
		mib += one
	}
	return mib, nil
}

// pss is what one process takes, in MiB.
func pss(pid int) (mib float64, err error) {
	process, err := procfs.NewProc(pid)
	if err != nil {
		return 0, err
	}
	use, err := process.ProcSMapsRollup()
	return float64(use.Pss) / (1 << 20), err
}
