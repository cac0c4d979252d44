package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sproutrun/sprout/integration/stack"
)

// Kinds of restores: each instance with a copy of its seed's memory, or all with one.
const (
	eager  = "eager"
	shared = "shared"
)

const (
	// atOnce is how many containers are started at the same time.
	atOnce = 10
	// atATime is how many instances are alive when their memory is summed.
	atATime = 5
)

// restoredApps has a server that forks its workers, too.
var restoredApps = append(slices.Clone(apps), app{"gunicorn", "gunicorn-demo", 100})

var restored = rung{name: "restore", runtime: stack.Runtime, snapshotter: stack.Snapshotter}

// benchRestore measures what a restore of one kind takes in the shim, all of it and phase by phase, how soon the container answers, what five take of memory, and how many are
// made in a second when ten are asked for at once. Stock runc's first replies are measured beside the shared ones, and beside the others those of a seed that is on disk only.
func benchRestore(kind string) func(ctx context.Context, s *stack.Stack, r *results) error {
	return func(ctx context.Context, s *stack.Stack, r *results) error {
		for _, a := range restoredApps {
			fmt.Fprintf(os.Stderr, "bench: restore: %s %s\n", a.name, kind)
			if err := restoresOf(ctx, s, r, a, kind); err != nil {
				return fmt.Errorf("%s %s: %w", a.name, kind, err)
			}
		}
		return nil
	}
}

func restoresOf(ctx context.Context, s *stack.Stack, r *results, a app, kind string) error {
	if err := bakeForRestores(ctx, s, a); err != nil {
		return err
	}
	for i := -1; i < starts; i++ {
		if err := pause(ctx, gap); err != nil {
			return err
		}
		if err := oneRestore(ctx, s, r, a, kind, i); err != nil {
			return err
		}
		if kind == shared && i >= 0 && i < coldReplies {
			_, reply, err := answering(ctx, s, a, alone, fmt.Sprintf("%s-runc-%d", a.name, i))
			if err != nil {
				return err
			}
			r.add("restore", a.name, baseRung, "first_reply_ms", "ms", reply)
			if err := s.RemoveAll(ctx); err != nil {
				return err
			}
		}
	}
	if kind == eager {
		if err := restoresFromDisk(ctx, s, r, a); err != nil {
			return err
		}
	}
	if err := memoryOfRestored(ctx, s, r, a, kind); err != nil {
		return err
	}
	if err := restoresAtOnce(ctx, s, r, a, kind); err != nil {
		return err
	}
	_, err := s.Sprout(ctx, "seed", "rm", a.name)
	return err
}

// restoresFromDisk measures first replies when nothing of the seed is in the page cache.
func restoresFromDisk(ctx context.Context, s *stack.Stack, r *results, a app) error {
	for i := range coldReplies {
		if err := pause(ctx, gap); err != nil {
			return err
		}
		if err := dropCache(ctx, filepath.Join(s.Dir, "lib", "seeds")); err != nil {
			return err
		}
		_, reply, err := answering(ctx, s, a, restored, fmt.Sprintf("%s-disk-%d", a.name, i))
		if err != nil {
			return err
		}
		r.add("restore", a.name, eager, "first_reply_from_disk_ms", "ms", reply)
		if err := s.RemoveAll(ctx); err != nil {
			return err
		}
	}
	return nil
}

// dropCache drops the files below a directory from the page cache.
func dropCache(ctx context.Context, dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		if out, err := exec.CommandContext(ctx, "dd", "if="+path, "iflag=nocache", "count=0").CombinedOutput(); err != nil {
			return fmt.Errorf("drop %s from the page cache: %w: %s", path, err, out)
		}
		return nil
	})
}

// memoryOfRestored sums what some instances take that have answered once.
func memoryOfRestored(ctx context.Context, s *stack.Stack, r *results, a app, kind string) error {
	var tasks []containerd.Task
	for i := range atATime {
		task, _, err := answering(ctx, s, a, restored, fmt.Sprintf("%s-%s-memory-%d", a.name, kind, i))
		if err != nil {
			return err
		}
		tasks = append(tasks, task)
	}
	sum, err := pssOfAll(s.Context(ctx), tasks)
	if err != nil {
		return err
	}
	r.add("restore", a.name, kind, fmt.Sprintf("pss_of_%d", atATime), "MiB", sum)
	return s.RemoveAll(ctx)
}

// bakeForRestores makes a seed, and waits until its memory has been read, by way of a spare: those that come later share it.
func bakeForRestores(ctx context.Context, s *stack.Stack, a app) error {
	if _, err := s.Sprout(ctx, "seed", "bake", "--mode", "clone", "--image", stack.Ref(a.image), "--name", a.name, "--ready", "http://:"+port+"/", "--warmup", fmt.Sprint(a.warmup)); err != nil {
		return err
	}
	for _, spares := range []string{"1", "0"} {
		if _, err := s.Sprout(ctx, "pool", "set", a.name, "--spares", spares, "--wait"); err != nil {
			return err
		}
	}
	return nil
}

// oneRestore starts one container and removes it; the one before the first is not counted.
func oneRestore(ctx context.Context, s *stack.Stack, r *results, a app, kind string, i int) error {
	id := fmt.Sprintf("%s-%s-%d", a.name, kind, i+1)
	_, reply, err := answering(ctx, s, a, restored, id)
	if err != nil {
		return err
	}
	start, err := recordOf(ctx, s, id)
	if err != nil || i < 0 {
		return errors.Join(err, s.RemoveAll(ctx))
	}
	r.add("restore", a.name, kind, "restore_ms", "ms", start.inShim())
	r.add("restore", a.name, kind, "first_reply_ms", "ms", reply)
	for _, p := range start.Phases {
		r.add("restore", a.name, kind, "phase "+p.Name, "ms", ms(time.Duration(p.Nanoseconds)))
	}
	return s.RemoveAll(ctx)
}

// restoresAtOnce counts from when the containers are there and their tasks are asked for.
func restoresAtOnce(ctx context.Context, s *stack.Stack, r *results, a app, kind string) error {
	ctx = s.Context(ctx)
	image, err := s.Client.GetImage(ctx, stack.Ref(a.image))
	if err != nil {
		return err
	}
	var list []containerd.Container
	for i := range atOnce {
		id := fmt.Sprintf("%s-%s-at-once-%d", a.name, kind, i)
		c, err := s.Client.NewContainer(ctx, id,
			containerd.WithImage(image), containerd.WithSnapshotter(restored.snapshotter), containerd.WithNewSnapshot(id, image),
			containerd.WithRuntime(restored.runtime, nil), containerd.WithNewSpec(oci.WithDefaultUnixDevices, oci.WithImageConfig(image)))
		if err != nil {
			return err
		}
		list = append(list, c)
	}
	failed := make([]error, len(list))
	var starting sync.WaitGroup
	from := time.Now()
	for i, c := range list {
		starting.Go(func() {
			task, err := c.NewTask(ctx, cio.NullIO)
			if err == nil {
				err = task.Start(ctx)
			}
			failed[i] = err
		})
	}
	starting.Wait()
	took := time.Since(from)
	for i, c := range list {
		failed[i] = errors.Join(failed[i], confirm(s, restored, c.ID()))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	r.add("restore", a.name, kind, "started_at_once", "per_s", atOnce/took.Seconds())
	return s.RemoveAll(ctx)
}
