package bake

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// cleanWithin bounds the end of a bake, which goes on when its context has been cancelled.
const cleanWithin = 30 * time.Second

// Options say what to bake and where.
type Options struct {
	// ID names the container to runc.
	ID string
	// Dir is the bake's own: it must not exist, its parent must. It is removed before Run returns.
	Dir string
	// ImagesDir receives CRIU's images. It must not exist, its parent must; after a failure it is removed.
	ImagesDir string
	// Overlay are the options of the overlay mount that becomes the root.
	Overlay []string
	// Spec is the spec that a container of this image would have had.
	Spec *specs.Spec
	// LateMounts are destinations whose mounts each instance gets anew; resolv.conf, hosts, hostname and termination-log always are.
	LateMounts []string
	Ready      Readiness
	// Warmup is the number of requests sent once the app is ready; only for HTTP and TCP.
	Warmup int
	// RuncPath is the runc binary.
	RuncPath string
	CRIU     restore.CRIU
	// CgroupPath is the container's cgroup below every hierarchy's root. It must not exist, or be empty.
	CgroupPath string
	// Progress is told what is being done, on every change and each second; calls never overlap. May be nil.
	Progress func(*api.BakeEvent)
}

// Result is a finished bake.
type Result struct {
	// Spec is the spec that the app was booted with: no late mounts, no hooks, no path of a network namespace.
	Spec *specs.Spec
	// StdioKeys are the names of the standard streams in the images.
	StdioKeys [3]string
	Processes int
	Threads   int
	// OwnNamespaces: the app has something in its own IPC or UTS namespace, and can join no other.
	OwnNamespaces bool
	// Phases are the steps and how long they took.
	Phases []*api.Phase
	// ImageBytes is the size of the images on disk.
	ImageBytes uint64
}

// bake is one run of Run.
type bake struct {
	o        Options
	spec     *specs.Spec
	progress *progress
	logs     *logs
	c        *container
	prober   *prober
	made     []string
	result   Result
}

// Run bakes. Errors are of type *Error. When it returns nothing is left of the container or of Dir, and after an error nothing of ImagesDir,
// also when ctx was cancelled: the clean-up has a deadline of its own.
func Run(ctx context.Context, o Options) (*Result, error) {
	b := &bake{o: o, progress: newProgress(o.Progress)}
	err := b.steps(ctx)
	undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
	defer cancel()
	if cleanErr := b.clean(undo, err != nil); cleanErr != nil {
		if err == nil {
			return nil, newError(StepClean, errors.Join(cleanErr, b.dropImages()), nil)
		}
		e := newError(StepClean, cleanErr, nil)
		err.Err = errors.Join(err.Err, e)
	}
	if err != nil {
		return nil, err
	}
	return &b.result, nil
}

// todo is one step and how it is done.
type todo struct {
	step Step
	do   func(context.Context) error
}

// inOrder does one step after the other and gives how long each took; the error is that of the first which failed, with the app's last lines.
func inOrder(ctx context.Context, lastLines func(context.Context) []string, steps []todo) (phases []*api.Phase, _ *Error) {
	for _, s := range steps {
		began := time.Now()
		err := context.Cause(ctx)
		if err == nil {
			err = s.do(ctx)
		}
		if err != nil {
			if ctx.Err() != nil {
				// What was cut short is no cause of its own.
				err = context.Cause(ctx)
			}
			return nil, newError(s.step, err, lastLines(ctx))
		}
		phases = append(phases, &api.Phase{Name: string(s.step), Nanoseconds: int64(time.Since(began))})
	}
	return phases, nil
}

func (b *bake) steps(ctx context.Context) (err *Error) {
	steps := []todo{
		{StepPrepare, b.prepare}, {StepBoot, b.boot}, {StepReady, b.ready}, {StepWarmup, b.warmup}, {StepSettle, b.settle}, {StepDump, b.dump},
	}
	for i, s := range steps {
		steps[i].do = func(ctx context.Context) error { return b.progress.during(func() error { return s.do(ctx) }) }
	}
	b.result.Phases, err = inOrder(ctx, b.lastLines, steps)
	return err
}

// checkWarmup refuses requests to an app that answers none.
func checkWarmup(ready Readiness, n int) error {
	if n > 0 && ready.Kind != HTTP && ready.Kind != TCP {
		return fmt.Errorf("%d warm-up requests need a readiness of http or tcp, not %s", n, ready.Kind)
	}
	return nil
}

func (b *bake) prepare(context.Context) error {
	if err := checkWarmup(b.o.Ready, b.o.Warmup); err != nil {
		return err
	}
	m := manifest{ID: b.o.ID, Cgroup: b.o.CgroupPath}
	if err := m.check(); err != nil {
		return err
	}
	spec, err := Adapt(b.o.Spec, b.o.LateMounts, b.o.CgroupPath)
	if err != nil {
		return err
	}
	b.spec = spec
	match, err := b.o.Ready.match()
	if err != nil {
		return err
	}
	b.logs = newLogs(match)
	for _, dir := range []string{b.o.Dir, b.o.ImagesDir} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return err
		}
		b.made = append(b.made, dir)
	}
	if err := m.write(b.o.Dir); err != nil {
		return err
	}
	for _, dir := range []string{"rootfs", "work"} {
		if err := os.Mkdir(filepath.Join(b.o.Dir, dir), 0o700); err != nil {
			return err
		}
	}
	return nil
}

func (b *bake) boot(ctx context.Context) error {
	b.progress.set(StepBoot, "booting the container", 0, 0)
	c, err := newContainer(b.o.ID, b.o.Dir, b.o.RuncPath, b.spec.Process.User, b.logs)
	if err != nil {
		return err
	}
	b.c = c
	if err := c.boot(ctx, b.spec, b.o.Overlay); err != nil {
		return err
	}
	b.prober = &prober{pid: c.pid, netns: c.netns, ready: b.o.Ready, logs: b.logs, exec: c.exec}
	return nil
}

func (b *bake) ready(ctx context.Context) error {
	began := time.Now()
	show := func(why string) {
		b.progress.wait(StepReady, fmt.Sprintf("waiting for %s%s", b.o.Ready, why), began, b.o.Ready.timeout())
	}
	show("")
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error {
		return b.prober.wait(ctx, func(err error) { show(": " + err.Error()) })
	})
}

func (b *bake) warmup(ctx context.Context) error {
	if b.o.Warmup == 0 {
		return nil
	}
	show := func(done int) {
		b.progress.set(StepWarmup, "sending requests to "+b.o.Ready.String(), done, b.o.Warmup)
	}
	show(0)
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error {
		return b.prober.warmUp(ctx, b.o.Warmup, show)
	})
}

func (b *bake) settle(ctx context.Context) error {
	b.progress.set(StepSettle, "waiting until the app rests", 0, 0)
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error {
		if err := settle(ctx, b.c.pid); err != nil {
			return err
		}
		return rest(ctx, linux.Cgroup{Path: b.o.CgroupPath}, restWithin)
	})
}

func (b *bake) dump(ctx context.Context) error {
	b.progress.set(StepDump, "dumping the container", 0, 0)
	if slices.ContainsFunc(b.o.Spec.Mounts, IsPodMemory) {
		if err := leftInPodMemory(b.c.pid); err != nil {
			return err
		}
	}
	dumped, err := restore.Dump(ctx, b.o.CRIU, restore.DumpOptions{
		PID:       b.c.pid,
		ImagesDir: b.o.ImagesDir,
		WorkDir:   filepath.Join(b.o.Dir, "work"),
		Spec:      b.spec,
	})
	if err != nil {
		return err
	}
	select {
	case <-b.c.gone:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if err := b.makePoints(); err != nil {
		return err
	}
	b.result.Spec = b.spec
	b.result.StdioKeys, b.result.OwnNamespaces = dumped.StdioKeys, dumped.OwnNamespaces
	b.result.Processes, b.result.Threads = dumped.Processes, dumped.Threads
	b.result.ImageBytes, err = size(b.o.ImagesDir)
	return err
}

// lastLines gives the app's last lines; when it has ended it waits for what is still in the pipes.
func (b *bake) lastLines(ctx context.Context) []string {
	if b.c == nil || b.c.pid == 0 {
		return nil
	}
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), exitGrace)
	defer cancel()
	b.logs.drained(soon)
	return b.logs.last()
}

// clean removes all but the images, and those too after a failure.
func (b *bake) clean(ctx context.Context, failed bool) error {
	var errs []error
	if b.c != nil {
		errs = append(errs, b.c.stop(ctx, linux.Cgroup{Path: b.o.CgroupPath}))
	}
	for _, dir := range b.made {
		switch {
		case dir == b.o.Dir:
			errs = append(errs, CleanupDir(ctx, dir))
		case failed:
			errs = append(errs, b.dropImages())
		}
	}
	if b.c != nil {
		b.c.close()
	}
	return errors.Join(errs...)
}

func (b *bake) dropImages() error { return os.RemoveAll(b.o.ImagesDir) }

func size(dir string) (uint64, error) {
	var sum uint64
	err := filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		sum += uint64(info.Size())
		return nil
	})
	return sum, err
}
