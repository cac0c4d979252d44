package main

import (
	"context"
	"fmt"
	"os"
	"strings"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sproutrun/sprout/integration/stack"
)

// app is one demo image as the benchmark starts it.
type app struct {
	name   string
	image  string
	warmup int
}

var apps = []app{{"python", "python-demo", 100}, {"node", "node-demo", 100}, {"tomcat", "tomcat-demo", 200}}

const (
	starts = 20
	// Cold first replies take seconds each; five are enough for a median.
	coldReplies = 5
	port        = "8080"
	// rest is how long the machine is left alone before each start.
	rest = 60 * time.Millisecond
)

// rung is one way to start that is measured.
type rung struct {
	name        string
	runtime     string
	snapshotter string
	// env is added to the container's own: a variable that no seed has makes the start a cold one.
	env     []string
	replies int
	spares  int
}

// rounds are the rungs that are measured in turn, one start of each after the other, so that what else the machine does hits all of them alike. Restore has
// a round of its own: it needs an empty pool.
var rounds = [][]rung{
	{
		{name: baseRung, runtime: stack.RuncRuntime, snapshotter: stack.OverlaySnapshotter, replies: coldReplies, spares: 3},
		{name: "cold", runtime: stack.Runtime, snapshotter: stack.Snapshotter, env: []string{"NOT_IN_ANY_SEED=1"}, replies: coldReplies, spares: 3},
		{name: "thaw", runtime: stack.Runtime, snapshotter: stack.Snapshotter, replies: starts, spares: 3},
	},
	{
		{name: "restore", runtime: stack.Runtime, snapshotter: stack.Snapshotter, replies: starts},
	},
}

// benchStart measures prepare_to_start_ms and first_reply_ms through containerd's Go client, and ctr_run_ms, for each app and rung.
func benchStart(ctx context.Context, s *stack.Stack, r *results) error {
	for _, a := range apps {
		fmt.Fprintf(os.Stderr, "bench: start: bake %s\n", a.name)
		if _, err := s.Sprout(ctx, "seed", "bake", "--mode", "clone", "--image", stack.Ref(a.image), "--name", a.name, "--ready", "http://:"+port+"/", "--warmup", fmt.Sprint(a.warmup)); err != nil {
			return err
		}
		for _, round := range rounds {
			if err := benchRound(ctx, s, r, a, round); err != nil {
				return fmt.Errorf("%s: %w", a.name, err)
			}
		}
		if _, err := s.Sprout(ctx, "seed", "rm", a.name); err != nil {
			return err
		}
	}
	return nil
}

func benchRound(ctx context.Context, s *stack.Stack, r *results, a app, round []rung) error {
	if _, err := s.Sprout(ctx, "pool", "set", a.name, "--spares", fmt.Sprint(round[0].spares), "--wait"); err != nil {
		return err
	}
	// One round that is not counted fills the page cache.
	for i := -1; i < starts; i++ {
		if i%5 == 0 {
			fmt.Fprintf(os.Stderr, "bench: start: %s %d of %d\n", a.name, i, starts)
		}
		for _, g := range round {
			if err := benchStarts(ctx, s, r, a, g, i); err != nil {
				return fmt.Errorf("%s: %w", g.name, err)
			}
		}
	}
	return nil
}

// benchStarts starts one container by the client library and one by ctr, and counts both unless this is the round before the first.
func benchStarts(ctx context.Context, s *stack.Stack, r *results, a app, g rung, i int) error {
	prepare, reply, err := clientStart(ctx, s, a, g, fmt.Sprintf("%s-%s-%d", a.name, g.name, i+1), i < g.replies)
	if err != nil {
		return err
	}
	took, err := ctrStart(ctx, s, a, g, fmt.Sprintf("%s-%s-ctr-%d", a.name, g.name, i+1))
	if err != nil || i < 0 {
		return err
	}
	r.add("start", a.name, g.name, "prepare_to_start_ms", "ms", prepare)
	if reply > 0 {
		r.add("start", a.name, g.name, "first_reply_ms", "ms", reply)
	}
	r.add("start", a.name, g.name, "ctr_run_ms", "ms", took)
	return nil
}

// clientStart starts one container as a client library does; both times count from before the snapshot is prepared.
func clientStart(ctx context.Context, s *stack.Stack, a app, g rung, id string, wantReply bool) (prepare, reply float64, err error) {
	if err := settle(ctx, s, a, g); err != nil {
		return 0, 0, err
	}
	ctx = s.Context(ctx)
	from := time.Now()
	task, err := startOf(ctx, s, a, g, id)
	if err != nil {
		return 0, 0, err
	}
	prepare = ms(time.Since(from))
	if wantReply {
		if err := stack.AwaitReply(ctx, int(task.Pid()), port, time.Minute); err != nil {
			return 0, 0, err
		}
		reply = ms(time.Since(from))
	}
	if err := confirm(s, g, id); err != nil {
		return 0, 0, err
	}
	c, err := s.Client.LoadContainer(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	return prepare, reply, s.Remove(ctx, c)
}

// startOf starts a container as a client library does.
func startOf(ctx context.Context, s *stack.Stack, a app, g rung, id string) (containerd.Task, error) {
	image, err := s.Client.GetImage(ctx, stack.Ref(a.image))
	if err != nil {
		return nil, err
	}
	c, err := s.Client.NewContainer(ctx, id,
		containerd.WithImage(image), containerd.WithSnapshotter(g.snapshotter), containerd.WithNewSnapshot(id, image), containerd.WithRuntime(g.runtime, nil),
		containerd.WithNewSpec(oci.WithDefaultUnixDevices, oci.WithEnv(g.env), oci.WithImageConfig(image), oci.WithEnv(g.env)))
	if err != nil {
		return nil, err
	}
	task, err := c.NewTask(ctx, cio.NullIO)
	if err != nil {
		return nil, err
	}
	return task, task.Start(ctx)
}

// ctrStart times `ctr run -d` as a user runs it.
func ctrStart(ctx context.Context, s *stack.Stack, a app, g rung, id string) (float64, error) {
	if err := settle(ctx, s, a, g); err != nil {
		return 0, err
	}
	args := []string{"run", "-d", "--runtime", g.runtime, "--snapshotter", g.snapshotter}
	for _, env := range g.env {
		args = append(args, "--env", env)
	}
	from := time.Now()
	if _, err := s.Ctr(ctx, append(args, stack.Ref(a.image), id)...); err != nil {
		return 0, err
	}
	took := ms(time.Since(from))
	if err := confirm(s, g, id); err != nil {
		return 0, err
	}
	c, err := s.Client.LoadContainer(s.Context(ctx), id)
	if err != nil {
		return 0, err
	}
	return took, s.Remove(s.Context(ctx), c)
}

// settle lets what the start before has left be finished, for every rung alike: its snapshot is being collected, its spare and its shim replaced. What is measured
// is a start, not a refill.
func settle(ctx context.Context, s *stack.Stack, a app, g rung) error {
	if g.spares > 0 {
		if _, err := s.Sprout(ctx, "pool", "set", a.name, "--spares", fmt.Sprint(g.spares), "--wait"); err != nil {
			return err
		}
	}
	return pause(ctx, rest)
}

// pause leaves the machine alone for a while.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// confirm reads the start's record: a figure must come from the rung whose name it carries.
func confirm(s *stack.Stack, g rung, id string) error {
	if g.name == baseRung {
		return nil
	}
	out, err := s.Explain(id)
	if err != nil {
		return err
	}
	if !strings.Contains(out, "rung "+g.name+",") {
		return fmt.Errorf("%s was not started by rung %s:\n%s", id, g.name, out)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
