package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/containerd/v2/pkg/schedcore"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// freeMemoryEvery is how often memory that is not needed goes back to the kernel: a node has as many shims as pods.
const freeMemoryEvery = 30 * time.Second

// gcPercent is by how much the heap grows between two collections.
const gcPercent = 40

// becomeShim makes this process what containerd's own shims are: the reaper of all that descends from it, deaf to SIGPIPE. Call it once, before any child.
func becomeShim() error {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(2)
	}
	if err := reaper.SetSubreaper(1); err != nil {
		return fmt.Errorf("become subreaper: %w", err)
	}
	// SIGPIPE is caught, not ignored: children would inherit that.
	signals := make(chan os.Signal, 32)
	signal.Notify(signals, syscall.SIGCHLD, syscall.SIGPIPE)
	go func() {
		for s := range signals {
			if s != syscall.SIGCHLD {
				continue
			}
			if err := reaper.Reap(); err != nil {
				log.L.WithError(err).Error("reap children")
			}
		}
	}()
	return nil
}

// staySmall gives memory that is not needed back to the kernel, from now on.
func staySmall() {
	debug.SetGCPercent(gcPercent)
	for range time.Tick(freeMemoryEvery) {
		debug.FreeOSMemory()
	}
}

// settle gives this process the place in the system that its parameters name.
func settle(p seedpool.ShimParams) error {
	if err := os.Chdir(p.Bundle); err != nil {
		return fmt.Errorf("enter bundle: %w", err)
	}
	if p.Debug {
		if err := log.SetLevel("debug"); err != nil {
			return err
		}
	}
	if err := openLog(); err != nil {
		return err
	}
	if os.Getenv("SCHED_CORE") != "" {
		if err := schedcore.Create(schedcore.ProcessGroup); err != nil {
			return fmt.Errorf("make core scheduling domain: %w", err)
		}
	}
	cgroup, err := shimCgroup(p)
	if err != nil {
		return err
	}
	if cgroup != "" {
		if err := joinCgroup(cgroup); err != nil {
			return err
		}
	}
	if p.OOMScore != nil {
		// A shim that was started by a process with another score may not be allowed to lower its own.
		if err := linux.SetOOMScore(os.Getpid(), *p.OOMScore); err != nil {
			log.L.WithError(err).Warn("set OOM score of shim")
		}
	}
	return nil
}

// joinCgroup moves this process into a cgroup that exists, in the hierarchies in which it does, as containerd's runc shim is moved.
func joinCgroup(path string) error {
	group, err := loadCgroup(path)
	if err != nil {
		return fmt.Errorf("open cgroup of shim: %w", err)
	}
	switch g := group.(type) {
	case cgroup1.Cgroup:
		err = g.AddProc(uint64(os.Getpid()))
	case *cgroup2.Manager:
		err = g.AddProc(uint64(os.Getpid()))
	}
	if err != nil {
		return fmt.Errorf("join cgroup of shim: %w", err)
	}
	return nil
}

// openLog makes the named pipe `log` of the bundle this process's standard error and its log. containerd has opened the other end before it ran the launcher;
// without anybody there nothing is logged, and nobody is waited for.
func openLog() error {
	pipe, err := os.OpenFile("log", os.O_WRONLY|syscall.O_NONBLOCK, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	// Fd makes it blocking again: children inherit the descriptor and know nothing of the other kind.
	if err := syscall.Dup3(int(pipe.Fd()), int(os.Stderr.Fd()), 0); err != nil {
		return errors.Join(fmt.Errorf("open log: %w", err), pipe.Close())
	}
	log.L.Logger.SetOutput(os.Stderr)
	return pipe.Close()
}

// stopOnSignal calls stop when this process is asked to end. SIGUSR1 writes what every goroutine does into the log.
func stopOnSignal(ctx context.Context, stop func()) {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGUSR1)
	go func() {
		for s := range signals {
			if s == syscall.SIGUSR1 {
				stacks := make([]byte, 1<<20)
				log.G(ctx).Infof("goroutines:\n%s", stacks[:runtime.Stack(stacks, true)])
				continue
			}
			log.G(ctx).WithField("signal", s).Debug("end")
			stop()
		}
	}()
}
