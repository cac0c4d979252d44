package bake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/go-runc"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// bootEvery is how often the container's pid file is looked for.
const bootEvery = 2 * time.Millisecond

// container is the sacrificial container. One `runc run` is its parent for as long as it lives: so its exit status is known on every
// kernel, and no zombie is left to the host's init.
type container struct {
	id, dir string
	runc    *runc.Runc
	logs    *logs
	streams *streams
	netns   *os.File
	// pid of init; 0 until the app has been started.
	pid int

	// gone is closed when runc has ended; status and err are set before. kill ends runc, not the container.
	gone   chan struct{}
	status int
	err    error
	kill   context.CancelFunc
}

// streams are the three pipes between us and the app.
type streams struct{ runc.IO }

// Set gives runc its ends. It dies with the thread that has started it, so that it cannot go on making a container that belongs to nobody.
func (s *streams) Set(cmd *exec.Cmd) {
	s.IO.Set(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

// closeTheirs closes runc's ends here, so that the readers see the end when the app has ended.
func (s *streams) closeTheirs() error {
	if c, ok := s.IO.(runc.StartCloser); ok {
		return c.CloseAfterStart()
	}
	return nil
}

// newContainer opens what the container needs: a fresh network namespace and the pipes.
func newContainer(id, dir, runcPath string, user specs.User, l *logs) (*container, error) {
	c := &container{id: id, dir: dir, logs: l, runc: newRunc(dir, runcPath)}
	netns, err := linux.NewNetNS()
	if err != nil {
		return nil, err
	}
	c.netns = netns
	pipes, err := runc.NewPipeIO(int(user.UID), int(user.GID))
	if err != nil {
		c.close()
		return nil, fmt.Errorf("make pipes: %w", err)
	}
	c.streams = &streams{pipes}
	l.follow(pipes.Stdout())
	l.follow(pipes.Stderr())
	return c, nil
}

// newRunc keeps runc's state and its log in the container's directory.
func newRunc(dir, path string) *runc.Runc {
	return &runc.Runc{Command: path, Root: filepath.Join(dir, "runc"), Log: filepath.Join(dir, "runc.log"), LogFormat: runc.JSON, Setpgid: true}
}

// boot starts the container over the overlay and returns when the app runs.
func (c *container) boot(ctx context.Context, adapted *specs.Spec, overlay []string) error {
	if err := c.writeConfig(adapted); err != nil {
		return err
	}
	c.gone = make(chan struct{})
	running, kill := context.WithCancel(context.WithoutCancel(ctx))
	c.kill = kill
	started := make(chan int, 1)
	go func() {
		c.status, c.err = c.run(running, overlay, &runc.CreateOpts{IO: c.streams, PidFile: c.pidFile(), Started: started})
		close(c.gone)
	}()
	select {
	case <-started:
	case <-c.gone:
	}
	if err := c.streams.closeTheirs(); err != nil {
		return err
	}
	return c.booted(ctx)
}

// writeConfig writes the spec for runc, with our network namespace in it.
func (c *container) writeConfig(adapted *specs.Spec) error {
	// runc opens the path in a process of its own: through our /proc it finds the namespace, which has no other name.
	spec, err := withNetNS(adapted, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.netns.Fd()))
	if err != nil {
		return err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	return os.WriteFile(filepath.Join(c.dir, "config.json"), data, 0o600)
}

// run is `runc run` in a mount namespace where only it and its container see the overlay. It returns when the container has ended or, if it is to be detached,
// runs.
func (c *container) run(ctx context.Context, overlay []string, o *runc.CreateOpts) (status int, err error) {
	err = linux.Enter(nil, func() error {
		if err := linux.PrivateMounts(); err != nil {
			return fmt.Errorf("make mount namespace: %w", err)
		}
		if err := linux.Overlay(filepath.Join(c.dir, "rootfs"), overlay); err != nil {
			return err
		}
		status, err = c.runc.Run(ctx, c.id, c.dir, o)
		return err
	})
	return status, err
}

// booted waits for the pid file, which runc writes when it has started the app. runc tells nobody else: hence looking again.
func (c *container) booted(ctx context.Context) error {
	again := time.NewTicker(bootEvery)
	defer again.Stop()
	for {
		// Asked first: when runc has ended, the file is there or will never be.
		ended := closed(c.gone)
		pid, err := readPid(c.pidFile())
		switch {
		case err == nil:
			c.pid = pid
			return nil
		case !errors.Is(err, fs.ErrNotExist):
			return err
		case ended:
			return c.runcError()
		}
		select {
		case <-again.C:
		case <-c.gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// runcError says what runc has logged, which is more than its exit status.
func (c *container) runcError() error {
	data, err := os.ReadFile(c.runc.Log)
	if err != nil {
		return c.err
	}
	said := ""
	for line := range bytes.Lines(data) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			said = entry.Msg
		}
	}
	if said == "" {
		return c.err
	}
	return fmt.Errorf("runc run: %s", strings.TrimPrefix(printable(said), "runc run failed: "))
}

// ended describes the end of the app. It may be called once gone is closed.
func (c *container) ended() error {
	return hinted{fmt.Errorf("%w with status %d", errEnded, c.status), exitHint(c.status)}
}

// stop ends the container and waits for runc, which removes its own state.
func (c *container) stop(ctx context.Context, cgroup linux.Cgroup) error {
	if c.gone == nil {
		return nil
	}
	defer c.kill()
	if c.pid == 0 {
		// Half made, the container may not be in its cgroup yet: without runc its init ends by itself.
		c.kill()
	} else if err := cgroup.Kill(); err != nil {
		return err
	}
	select {
	case <-c.gone:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the end of the container: %w", context.Cause(ctx))
	}
}

// close gives back what this process holds of the container, which must have ended.
func (c *container) close() {
	if c.streams != nil {
		// Half of them are closed already, which is all that it could say.
		_ = c.streams.Close()
		c.logs.readers.Wait()
	}
	_ = c.netns.Close()
}

func (c *container) pidFile() string { return filepath.Join(c.dir, "init.pid") }

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func readPid(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err == nil && pid <= 0 {
		err = errors.New("it is not a process id")
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", file, err)
	}
	return pid, nil
}
