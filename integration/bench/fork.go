package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/sproutrun/sprout/integration/stack"
)

const (
	// gap is what a machine that starts a container now and then leaves between two.
	gap = 100 * time.Millisecond
	// crowd is how many clones of one seed are alive at the same time at the end.
	crowd = 100
	// requests is how often each of ten clones is asked before their memory is summed again.
	requests = 200
)

var (
	cloned = rung{name: "fork", runtime: stack.Runtime, snapshotter: stack.Snapshotter}
	alone  = rung{name: baseRung, runtime: stack.RuncRuntime, snapshotter: stack.OverlaySnapshotter}
	thawed = rung{name: "thaw", runtime: stack.Runtime, snapshotter: stack.Snapshotter, spares: 3}
)

// benchFork measures what it takes to clone a container, how soon it answers beside a thawed one and stock runc's, and the memory of ten.
func benchFork(ctx context.Context, s *stack.Stack, r *results) error {
	for _, a := range apps {
		fmt.Fprintf(os.Stderr, "bench: fork: %s\n", a.name)
		if _, err := s.Sprout(ctx, "seed", "bake", "--mode", "clone", "--image", stack.Ref(a.image), "--name", a.name, "--ready", "http://:"+port+"/", "--warmup", fmt.Sprint(a.warmup)); err != nil {
			return err
		}
		for _, part := range []func(context.Context, *stack.Stack, *results, app) error{firstReplies, cloneMemory} {
			if err := part(ctx, s, r, a); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		if a.name == "python" {
			if err := cloneCrowd(ctx, s, r, a); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		if _, err := s.Sprout(ctx, "seed", "rm", a.name); err != nil {
			return err
		}
	}
	return nil
}

// firstReplies measures first_reply_ms in turn for stock runc and thawed spares, which are clones, too, and then for clones, with a gap before each.
func firstReplies(ctx context.Context, s *stack.Stack, r *results, a app) error {
	for _, round := range [][]rung{{alone, thawed}, {cloned}} {
		if _, err := s.Sprout(ctx, "pool", "set", a.name, "--spares", fmt.Sprint(round[len(round)-1].spares), "--wait"); err != nil {
			return err
		}
		for i := -1; i < starts; i++ {
			for _, g := range round {
				if g.name == baseRung && i >= coldReplies {
					continue
				}
				if err := firstReply(ctx, s, r, a, g, i); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// firstReply starts one container and removes it; the one before the first is not counted.
func firstReply(ctx context.Context, s *stack.Stack, r *results, a app, g rung, i int) error {
	if err := settle(ctx, s, a, g); err != nil {
		return err
	}
	if err := pause(ctx, gap-rest); err != nil {
		return err
	}
	id := fmt.Sprintf("%s-%s-reply-%d", a.name, g.name, i+1)
	_, reply, err := answering(ctx, s, a, g, id)
	if err != nil {
		return err
	}
	if i >= 0 {
		r.add("fork", a.name, g.name, "first_reply_ms", "ms", reply)
	}
	if i >= 0 && g.name == cloned.name {
		took, err := inShim(ctx, s, id)
		if err != nil {
			return err
		}
		r.add("fork", a.name, g.name, "fork_ms", "ms", took)
	}
	return s.RemoveAll(ctx)
}

// inShim is what a start took in its shim, in ms.
func inShim(ctx context.Context, s *stack.Stack, id string) (float64, error) {
	start, err := recordOf(ctx, s, id)
	return start.inShim(), err
}

// cloneMemory starts ten clones one after the other without a pause, and sums what they and all that stands behind them take, beside one container of stock runc.
func cloneMemory(ctx context.Context, s *stack.Stack, r *results, a app) error {
	task, _, err := answering(ctx, s, a, alone, a.name+"-alone")
	if err != nil {
		return err
	}
	one, err := pssOf(s.Context(ctx), task)
	if err != nil {
		return err
	}
	if err := s.RemoveAll(ctx); err != nil {
		return err
	}
	var tasks []containerd.Task
	for i := range memoryInstances {
		id := fmt.Sprintf("%s-memory-%d", a.name, i)
		task, _, err := answering(ctx, s, a, cloned, id)
		if err != nil {
			return err
		}
		took, err := inShim(ctx, s, id)
		if err != nil {
			return err
		}
		tasks = append(tasks, task)
		r.add("fork", a.name, cloned.name, "fork_back_to_back_ms", "ms", took)
	}
	r.add("fork", a.name, baseRung, "memory_of_1", "MiB", one)
	if err := addMemory(ctx, s, r, a, tasks, one, "idle"); err != nil {
		return err
	}
	for _, task := range tasks {
		for range requests {
			if _, err := stack.Get(int(task.Pid()), port, "/"); err != nil {
				return err
			}
		}
	}
	if err := addMemory(ctx, s, r, a, tasks, one, "after_200_requests"); err != nil {
		return err
	}
	return s.RemoveAll(ctx)
}

// addMemory sums the clones, the template and its zygote, their holder and the keeper.
func addMemory(ctx context.Context, s *stack.Stack, r *results, a app, tasks []containerd.Task, one float64, when string) error {
	sum, err := pssOfAll(s.Context(ctx), tasks)
	if err != nil {
		return err
	}
	behind, err := behindClones(s)
	if err != nil {
		return err
	}
	for _, pid := range behind {
		mib, err := pss(pid)
		if err != nil {
			return err
		}
		sum += mib
	}
	r.add("fork", a.name, cloned.name, "memory_of_10_"+when, "MiB", sum)
	r.add("fork", a.name, cloned.name, "memory_of_10_to_1_"+when, "ratio", sum/one)
	return nil
}

// behindClones are the processes that clones share: keeper, holder, template, zygote.
func behindClones(s *stack.Stack) (pids []int, err error) {
	if pids, err = s.TemplatePIDs(); err != nil {
		return nil, err
	}
	for _, pid := range s.Processes() {
		cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		args := strings.Split(string(cmdline), "\x00")
		if err == nil && len(args) > 1 && (args[1] == "keeper" || args[1] == "holder") {
			pids = append(pids, pid)
		}
	}
	if len(pids) != 4 {
		return nil, fmt.Errorf("behind the clones are processes %v, want a keeper, a holder, a template and its zygote", pids)
	}
	return pids, nil
}

// cloneCrowd has a hundred clones alive at once, all of which answer.
func cloneCrowd(ctx context.Context, s *stack.Stack, r *results, a app) error {
	var tasks []containerd.Task
	from := time.Now()
	for i := range crowd {
		task, _, err := answering(ctx, s, a, cloned, fmt.Sprintf("%s-crowd-%d", a.name, i))
		if err != nil {
			return err
		}
		tasks = append(tasks, task)
	}
	took := time.Since(from)
	for _, task := range tasks {
		if _, err := stack.Get(int(task.Pid()), port, "/"); err != nil {
			return fmt.Errorf("one of %d: %w", crowd, err)
		}
	}
	r.add("fork", a.name, cloned.name, "alive_at_once", "clones", float64(len(tasks)))
	r.add("fork", a.name, cloned.name, "started_and_answering", "per_s", crowd/took.Seconds())
	return s.RemoveAll(ctx)
}
