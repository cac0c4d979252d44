package bake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	runc "github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// BootOptions say what to boot, and where, that goes on to live.
type BootOptions struct {
	// ID names the container to runc as long as it boots.
	ID string
	// Dir is the container's own, and the caller's to remove.
	Dir     string
	Overlay []string
	// Spec has been through Adapt.
	Spec   *specs.Spec
	Ready  Readiness
	Warmup int
	// Trim has JVMs give back the free part of their heaps.
	Trim bool
	// RuncPath is the runc binary.
	RuncPath string
	// NetNS is the network namespace that the container gets, Cgroup its cgroup, which exists and is empty, Stdio its standard streams.
	NetNS  *os.File
	Cgroup linux.Cgroup
	Stdio  [3]*os.File
	// Output are reading ends of stdout and stderr, not blocking: they are read as long as the app boots, and empty afterwards.
	Output []*os.File
}

// Boot boots an app for a spare: it returns when the app is ready, warmed up, at rest and frozen, as a child of the calling process, which adopts orphans
// (linux.AdoptOrphans). It is no container of runc's any more. Errors are of type *Error, and then nothing of the app runs.
func Boot(ctx context.Context, o BootOptions) (pid int, phases []*api.Phase, err error) {
	b := &booting{o: o}
	phases, failed := inOrder(ctx, b.lastLines, []todo{
		{StepPrepare, b.prepare}, {StepBoot, b.boot}, {StepReady, b.ready}, {StepWarmup, b.warmup}, {StepTrim, b.trim}, {StepSettle, b.settle}, {StepHold, b.hold},
	})
	b.quiet()
	if failed != nil {
		undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
		defer cancel()
		failed.Err = errors.Join(failed.Err, b.end(undo))
		return 0, nil, failed
	}
	return b.c.pid, phases, nil
}

// booting is one run of Boot.
type booting struct {
	o      BootOptions
	logs   *logs
	c      *container
	prober *prober
	// unwatch ends the wait for the app's end.
	unwatch func()
}

func (b *booting) prepare(context.Context) error {
	if err := checkWarmup(b.o.Ready, b.o.Warmup); err != nil {
		return err
	}
	match, err := b.o.Ready.match()
	if err != nil {
		return err
	}
	b.logs = newLogs(match)
	return os.Mkdir(filepath.Join(b.o.Dir, "rootfs"), 0o700)
}

// boot has runc make the container and let go of it.
func (b *booting) boot(ctx context.Context) error {
	for _, out := range b.o.Output {
		b.logs.follow(out)
	}
	b.c = &container{id: b.o.ID, dir: b.o.Dir, logs: b.logs, runc: newRunc(b.o.Dir, b.o.RuncPath), netns: b.o.NetNS}
	if err := b.c.writeConfig(b.o.Spec); err != nil {
		return err
	}
	if err := b.c.detach(ctx, b.o.Overlay, files(b.o.Stdio)); err != nil {
		return err
	}
	var err error
	if b.unwatch, err = b.c.watch(ctx); err != nil {
		return err
	}
	b.prober = &prober{pid: b.c.pid, netns: b.o.NetNS, ready: b.o.Ready, logs: b.logs, exec: b.c.exec}
	return nil
}

func (b *booting) ready(ctx context.Context) error {
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error {
		return b.prober.wait(ctx, func(error) {})
	})
}

func (b *booting) warmup(ctx context.Context) error {
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error {
		return b.prober.warmUp(ctx, b.o.Warmup, func(int) {})
	})
}

// settle does not care for connections, which stay as they are.
func (b *booting) settle(ctx context.Context) error {
	return whileAlive(ctx, b.c.gone, b.c.ended, func(ctx context.Context) error { return rest(ctx, b.o.Cgroup, restWithin) })
}

// hold freezes the app, and makes sure that all of it can be moved to another cgroup.
func (b *booting) hold(ctx context.Context) error {
	if err := b.o.Cgroup.Freeze(ctx); err != nil {
		return err
	}
	b.unwatch()
	if closed(b.c.gone) {
		return b.c.ended()
	}
	own, err := b.o.Cgroup.Procs()
	if err != nil {
		return err
	}
	all, err := b.o.Cgroup.ProcsBelow()
	if err != nil {
		return err
	}
	if len(all) != len(own) {
		return hinted{fmt.Errorf("%d of its %d processes are in cgroups of its own", len(all)-len(own), len(all)), "an app that makes cgroups starts cold"}
	}
	// What runc knows of it, and the mount point, which is in nobody's mounts any more.
	var errs []error
	for _, name := range []string{"runc", "runc.log", "config.json", "rootfs", "init.pid", "exec.pid"} {
		errs = append(errs, os.RemoveAll(filepath.Join(b.o.Dir, name)))
	}
	return errors.Join(errs...)
}

// quiet ends the reading of the app's output. What is left of it is dropped.
func (b *booting) quiet() {
	for _, out := range b.o.Output {
		_ = out.SetReadDeadline(time.Unix(1, 0)) // of a pipe that is polled
	}
	if b.logs != nil {
		b.logs.readers.Wait()
	}
	for _, out := range b.o.Output {
		_ = linux.DrainFifo(out)
	}
}

// end kills what there is of the container.
func (b *booting) end(ctx context.Context) error {
	if b.unwatch != nil {
		b.unwatch()
	}
	if err := b.o.Cgroup.Kill(); err != nil {
		return err
	}
	return errors.Join(linux.ReapIn(ctx, b.o.Cgroup), b.o.Cgroup.WaitEmpty(ctx))
}

func (b *booting) lastLines(ctx context.Context) []string {
	if b.c == nil || b.c.pid == 0 {
		return nil
	}
	// Its pipes do not end, as we hold them: what it wrote last is read in this time.
	soon, cancel := context.WithTimeout(context.WithoutCancel(ctx), exitGrace)
	defer cancel()
	b.logs.drained(soon)
	return b.logs.last()
}

// detach is `runc run --detach`: when it returns without error the app runs, and is a child of ours.
func (c *container) detach(ctx context.Context, overlay []string, streams runc.IO) error {
	running, kill := context.WithCancel(context.WithoutCancel(ctx))
	defer kill()
	started, over := make(chan int, 1), make(chan error, 1)
	go func() {
		_, err := c.run(running, overlay, &runc.CreateOpts{IO: streams, PidFile: c.pidFile(), Detach: true, Started: started})
		over <- err
	}()
	var err error
	select {
	case err = <-over:
	case <-ctx.Done():
		// Its child may not be in the container's cgroup yet.
		var children []int
		select {
		case pid := <-started:
			children, _ = linux.Children(pid)
		case err := <-over: // it never was
			over <- err
		}
		kill()
		<-over //nolint:errcheck // it was killed
		return errors.Join(context.Cause(ctx), endAll(ctx, children))
	}
	if err != nil {
		c.err = err
		return c.runcError()
	}
	c.pid, err = readPid(c.pidFile())
	return err
}

// endAll kills children of a process that has ended, which are ours now, and waits for them.
func endAll(ctx context.Context, pids []int) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanWithin)
	defer cancel()
	var errs []error
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
			continue
		}
		if _, err := linux.Reap(ctx, pid); !errors.Is(err, syscall.ECHILD) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// watch waits for the end of a detached container, beside whatever else is done: gone is closed then. After stop it is the caller who waits for the process.
func (c *container) watch(ctx context.Context) (stop func(), err error) {
	pidfd, err := linux.OpenPidfd(c.pid)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	c.gone = make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		defer pidfd.Close()
		if pidfd.Wait(ctx) != nil {
			return
		}
		status, err := linux.Reap(context.WithoutCancel(ctx), c.pid)
		c.err, c.status = err, status.ExitStatus()
		if status.Signaled() {
			c.status = 128 + int(status.Signal())
		}
		close(c.gone)
	})
	return func() {
		cancel()
		watcher.Wait()
	}, nil
}

// files are streams that are there already.
type files [3]*os.File

func (f files) Stdin() io.WriteCloser { return nil }
func (f files) Stdout() io.ReadCloser { return nil }
func (f files) Stderr() io.ReadCloser { return nil }
func (f files) Close() error          { return nil }

// Set gives runc the streams. It dies with the thread that has started it, as in streams.
func (f files) Set(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = f[0], f[1], f[2]
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
