package keeper

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// GuardArg is the verb of the guard's command line: `sproutd guard`.
const GuardArg = "guard"

// guardLine is the guard's end of the connection to its keeper.
const guardLine = 3

// mostGuards bounds how many guards one keeper starts: one that ends and ends will end again.
const mostGuards = 8

// Guard is the life of a guard: it holds what the keeper and the shims hold of the instances' memory, so that an instance of which both are killed does not run on without.
func Guard(ctx context.Context) error {
	conn, err := linux.Conn(os.NewFile(guardLine, "keeper"))
	if err != nil {
		return err
	}
	return restore.Guard(ctx, conn)
}

// guard is the keeper's end of a guard, and what is in its care.
type guard struct {
	mu sync.Mutex
	// line is the connection to the guard that there is; err is why there is none and will be none.
	line  *net.UnixConn                    // +checklocks:mu
	wards map[*restore.Memory]*linux.Pidfd // +checklocks:mu: the first process of each instance
	count int                              // +checklocks:mu
	// dismissed: it is not needed any more.
	dismissed bool  // +checklocks:mu
	err       error // +checklocks:mu
}

// start starts the first guard.
func (g *guard) start() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.wards = make(map[*restore.Memory]*linux.Pidfd)
	return g.startLocked()
}

// broken says why instances cannot be guarded.
func (g *guard) broken() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.err
}

func (g *guard) startLocked() error {
	ours, theirs, err := linux.StreamPair("guard")
	if err != nil {
		return err
	}
	defer theirs.Close()
	if g.line, err = linux.Conn(ours); err != nil {
		return err
	}
	cmd := exec.Command("/proc/self/exe", GuardArg)
	cmd.Args[0] = "sproutd"
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start guard: %w", err), g.line.Close())
	}
	g.count++
	go g.follow(cmd, g.line)
	return nil
}

// follow starts another guard when one has ended, and gives it all that the old one had. Until then the instances have only us and their shims.
func (g *guard) follow(cmd *exec.Cmd, line *net.UnixConn) {
	ended := cmd.Wait()
	g.mu.Lock()
	defer g.mu.Unlock()
	_ = line.Close()
	if g.dismissed {
		return
	}
	log.L.WithError(ended).WithField("instances", len(g.wards)).Warn("guard of the instances' memory has ended")
	if g.err = fmt.Errorf("the last of %d guards has ended", mostGuards); g.count < mostGuards {
		g.err = g.startLocked()
	}
	for memory, first := range g.wards {
		if g.err != nil {
			break
		}
		// What this one is not told because it has ended, the next one is.
		_ = memory.Protect(g.line, first)
	}
	if g.err != nil {
		log.L.WithError(g.err).Error("instances that share their memory are no longer guarded")
	}
}

// dismiss lets a guard end that has nothing in its care.
func (g *guard) dismiss() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.dismissed = true
	_ = g.line.Close()
}

// protect takes an instance, which has not run yet, in care until forget.
func (g *guard) protect(memory *restore.Memory, first *linux.Pidfd) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.err != nil {
		return g.err
	}
	g.wards[memory] = first
	if err := memory.Protect(g.line, first); err != nil {
		log.L.WithError(err).Warn("the guard is not there, the next one will be told")
	}
	return nil
}

func (g *guard) forget(memory *restore.Memory) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.wards, memory)
}
