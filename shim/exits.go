package shim

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"syscall"
	"time"

	shimrunc "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/pkg/protobuf"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// statusUnknown is the exit status of a process of which neither the kernel nor the keeper could tell one.
const statusUnknown = 255

// exitWait is how long kernel and keeper may take to tell the status of a process that has ended.
const exitWait = 2 * time.Second

// exit is how a process ended, its status as a shell shows it: 128 + signal when it was killed.
type exit struct {
	Status uint32    `json:"status"`
	At     time.Time `json:"at"`
	PID    uint32    `json:"pid,omitempty"`
}

// waitForExit waits until the process behind p is gone and says how it ended: the kernel's word where it has one
// (PIDFD_GET_INFO with PIDFD_INFO_EXIT, Linux 6.15), else that of the keeper, which is its parent and wrote it into exitFile.
// Both come a moment after the end, when the keeper has reaped, and there is nothing to wait on for either: so this asks again, for a
// short while.
func waitForExit(ctx context.Context, p *linux.Pidfd, exitFile string) exit {
	if err := p.Wait(ctx); err != nil {
		log.G(ctx).WithError(err).Warn("wait on pidfd of woken task")
	}
	now := time.Now()
	deadline := time.NewTimer(exitWait)
	defer deadline.Stop()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		if status, known, err := p.ExitStatus(); err == nil && known {
			return exit{Status: shellStatus(status), At: now}
		}
		if e, err := readKeeperExit(exitFile); err == nil {
			return e
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			log.G(ctx).WithField("file", exitFile).Warn("no exit status of woken task")
			return exit{Status: statusUnknown, At: now}
		}
	}
}

func readKeeperExit(exitFile string) (exit, error) {
	data, err := os.ReadFile(exitFile)
	if err != nil {
		return exit{}, err
	}
	var e exit
	if err := json.Unmarshal(data, &e); err != nil {
		return exit{}, err
	}
	e.Status = shellStatus(syscall.WaitStatus(e.Status))
	return e, nil
}

func shellStatus(s syscall.WaitStatus) uint32 {
	if s.Signaled() {
		return 128 + uint32(s.Signal())
	}
	return uint32(s.ExitStatus())
}

// stopped publishes the exit of the first process. The caller holds op.
func (t *wokenTask) stopped(ctx context.Context, e exit) {
	t.mu.Lock()
	t.status, t.exitedAt = e.Status, e.At
	t.phase = phaseStopped
	t.mu.Unlock()
	close(t.exited)
	// The runc shim's file: a `delete` that finds this shim dead tells the truth from it.
	kept := runc.Exit{Timestamp: e.At, Pid: int(t.pid()), Status: int(e.Status)}
	if err := shimrunc.WriteExitStatus(t.bundle, kept); err != nil {
		log.G(ctx).WithError(err).Warn("write exit status into bundle")
	}
	t.tasks.publish(&eventstypes.TaskExit{
		ContainerID: t.id,
		ID:          t.id,
		Pid:         t.pid(),
		ExitStatus:  e.Status,
		ExitedAt:    protobuf.ToTimestamp(e.At),
	})
}

// exitFileName is the file in the bundle from which the launcher's `delete` answers without asking runc: it is written when
// everything that the task held is gone.
const exitFileName = "sprout.exit"

// writeBundleExit leaves the exit of a deleted task for the launcher.
func writeBundleExit(bundle string, e exit) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return writeFile(filepath.Join(bundle, exitFileName), data)
}

// childExit tells the exit of one child of this shim whose pid is not known before it runs: it listens from before the start.
type childExit struct {
	pid  chan int
	done chan runc.Exit
}

// expectChild begins to listen. Either is or forget must follow.
func expectChild() *childExit {
	c := &childExit{pid: make(chan int, 1), done: make(chan runc.Exit, 1)}
	exits := reaper.Default.Subscribe()
	go c.listen(exits)
	return c
}

// is says which process was meant; its exit, past or to come, is sent on the channel once.
func (c *childExit) is(pid int) <-chan runc.Exit {
	c.pid <- pid
	return c.done
}

// forget ends the listening: the child was not started.
func (c *childExit) forget() { close(c.pid) }

func (c *childExit) listen(exits chan runc.Exit) {
	defer reaper.Default.Unsubscribe(exits)
	early := make(map[int]runc.Exit)
	pids, wanted := c.pid, 0
	for {
		select {
		case pid, ok := <-pids:
			if !ok {
				return
			}
			if e, seen := early[pid]; seen {
				c.done <- e
				return
			}
			pids, wanted = nil, pid
		case e := <-exits:
			if wanted != 0 && e.Pid == wanted {
				c.done <- e
				return
			}
			early[e.Pid] = e
		}
	}
}
