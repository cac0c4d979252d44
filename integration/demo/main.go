// Command demo shows on this machine what sprout does: it bakes Tomcat, then starts it cold with stock runc and woken with sprout, and prints both.
//
//	make demo
//
// It runs a containerd and a sproutd of its own (package stack); nothing of the host's own is touched and nothing is left running.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

const (
	image  = "tomcat-demo"
	seed   = "shop"
	port   = "8080"
	warmup = "200"
	spares = "3"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	out := flag.String("out", "_out", "build directory")
	flag.Parse()
	if err := run(ctx, *out, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out string, w io.Writer) (err error) {
	dir, err := filepath.Abs(out)
	if err != nil {
		return err
	}
	fmt.Fprintln(w, "Starting a containerd and a sproutd of their own; loading the image.")
	s, err := stack.Start(ctx, stack.Options{Out: dir})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.ImportFor(ctx, []string{stack.OverlaySnapshotter, stack.Snapshotter}, image); err != nil {
		return err
	}
	d := demo{s: s, w: w}
	if err := d.prepare(ctx); err != nil {
		return err
	}
	cold, err := d.start(ctx, "c-runc", stack.RuncRuntime, stack.OverlaySnapshotter)
	if err != nil {
		return err
	}
	woken, err := d.start(ctx, "c1", stack.Runtime, stack.Snapshotter)
	if err != nil {
		return err
	}
	for _, args := range [][]string{{"explain", "c1"}, {"seed", "ls"}, {"ps"}} {
		if err := d.show(ctx, "sprout", args...); err != nil {
			return err
		}
	}
	fmt.Fprintf(w, "\nTomcat, from `ctr run` to the first HTTP reply:\n  stock runc %8.0f ms\n  sprout     %8.0f ms   (%.0f times sooner)\n",
		ms(cold), ms(woken), float64(cold)/float64(woken))
	return nil
}

// demo types commands, shows them as a user would type them, and times two of them.
type demo struct {
	s *stack.Stack
	w io.Writer
}

func (d demo) prepare(ctx context.Context) error {
	ref := strings.TrimSuffix(stack.Ref(image), ":latest")
	if err := d.show(ctx, "sprout", "seed", "bake", "--mode", "clone", "--image", ref, "--ready", "http://:"+port+"/", "--warmup", warmup, "--name", seed); err != nil {
		return err
	}
	return d.show(ctx, "sprout", "pool", "set", seed, "--spares", spares, "--wait")
}

// start runs one container and waits for its first reply.
func (d demo) start(ctx context.Context, id, runtime, snapshotter string) (time.Duration, error) {
	from := time.Now()
	if err := d.show(ctx, "ctr", "run", "-d", "--runtime", runtime, "--snapshotter", snapshotter, stack.Ref(image), id); err != nil {
		return 0, err
	}
	nsctx := d.s.Context(ctx)
	c, err := d.s.Client.LoadContainer(nsctx, id)
	if err != nil {
		return 0, err
	}
	task, err := c.Task(nsctx, nil)
	if err != nil {
		return 0, err
	}
	if err := stack.AwaitReply(ctx, int(task.Pid()), port, time.Minute); err != nil {
		return 0, err
	}
	return time.Since(from), nil
}

// show prints a command line and runs it with its output on the screen.
func (d demo) show(ctx context.Context, name string, args ...string) error {
	fmt.Fprintf(d.w, "\n$ %s %s\n", name, strings.Join(args, " "))
	c := d.s.Command(ctx, name, args...)
	c.Stdout, c.Stderr = d.w, d.w
	if err := c.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
