package main

import (
	"context"
	"fmt"
	"os"
	"time"

	containerd "github.com/containerd/containerd/v2/client"

	"github.com/sproutrun/sprout/integration/stack"
)

// naps is how many containers are put to sleep, and woken, for each number of requests before that.
const naps = 5

// benchSleep measures what a sleeping container takes on disk, how long it takes to put it there, and how soon one that is woken answers: beside a first start by stock runc
// and a restore of the seed.
func benchSleep(ctx context.Context, s *stack.Stack, r *results) error {
	for _, a := range apps {
		fmt.Fprintf(os.Stderr, "bench: sleep: %s\n", a.name)
		if err := sleepsOf(ctx, s, r, a); err != nil {
			return fmt.Errorf("%s: %w", a.name, err)
		}
	}
	return nil
}

func sleepsOf(ctx context.Context, s *stack.Stack, r *results, a app) error {
	if err := bakeForRestores(ctx, s, a); err != nil {
		return err
	}
	for i := range naps {
		_, reply, err := answering(ctx, s, a, alone, fmt.Sprintf("%s-runc-%d", a.name, i))
		if err != nil {
			return err
		}
		r.add("sleep", a.name, baseRung, "first_reply_ms", "ms", reply)
		if err := s.RemoveAll(ctx); err != nil {
			return err
		}
		for _, requests := range []int{0, 1000} {
			if err := nap(ctx, s, r, a, requests, fmt.Sprintf("%s-%d-%d", a.name, requests, i)); err != nil {
				return err
			}
		}
	}
	_, err := s.Sprout(ctx, "seed", "rm", a.name)
	return err
}

// nap starts a container, sends it requests, puts it to sleep and wakes it.
func nap(ctx context.Context, s *stack.Stack, r *results, a app, requests int, id string) error {
	if err := pause(ctx, gap); err != nil {
		return err
	}
	task, reply, err := answering(ctx, s, a, restored, id)
	if err != nil {
		return err
	}
	r.add("sleep", a.name, restored.name, "first_reply_ms", "ms", reply)
	if err := stack.GetMany(int(task.Pid()), port, "/", requests); err != nil {
		return err
	}
	which := fmt.Sprintf("after %d", requests)
	from := time.Now()
	if _, err := s.Sprout(ctx, "sleep", id); err != nil {
		return err
	}
	r.add("sleep", a.name, which, "sleep_ms", "ms", ms(time.Since(from)))
	if err := addNap(ctx, s, r, a, which, id, "sleep "); err != nil {
		return err
	}
	if err := pause(ctx, gap); err != nil {
		return err
	}
	if reply, err = wakeReply(s.Context(ctx), s, id); err != nil {
		return err
	}
	r.add("sleep", a.name, which, "wake_first_reply_ms", "ms", reply)
	if err := addNap(ctx, s, r, a, which, id, "wake "); err != nil {
		return err
	}
	return s.RemoveAll(ctx)
}

// wakeReply counts from when containerd is asked to have the container go on.
func wakeReply(ctx context.Context, s *stack.Stack, id string) (float64, error) {
	task, err := taskOf(ctx, s, id)
	if err != nil {
		return 0, err
	}
	from := time.Now()
	if err := task.Resume(ctx); err != nil {
		return 0, err
	}
	// Its process is another one now.
	if task, err = taskOf(ctx, s, id); err != nil {
		return 0, err
	}
	if err := stack.AwaitReply(ctx, int(task.Pid()), port, time.Minute); err != nil {
		return 0, err
	}
	return ms(time.Since(from)), nil
}

func taskOf(ctx context.Context, s *stack.Stack, id string) (containerd.Task, error) {
	c, err := s.Client.LoadContainer(ctx, id)
	if err != nil {
		return nil, err
	}
	return c.Task(ctx, nil)
}

// addNap adds what the container's record says of its sleep.
func addNap(ctx context.Context, s *stack.Stack, r *results, a app, which, id, step string) error {
	start, err := recordOf(ctx, s, id)
	if err != nil {
		return err
	}
	if start.Rest.Asleep {
		r.add("sleep", a.name, which, "delta", "MiB", float64(start.Rest.Bytes)/(1<<20))
		r.add("sleep", a.name, which, "whole_image", "MiB", float64(start.Rest.Full)/(1<<20))
		r.add("sleep", a.name, which, "delta_to_whole", "ratio", float64(start.Rest.Bytes)/float64(start.Rest.Full))
	}
	for _, p := range start.Rest.Phases {
		r.add("sleep", a.name, which, "phase "+step+p.Name, "ms", ms(time.Duration(p.Nanoseconds)))
	}
	return nil
}
