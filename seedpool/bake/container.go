package bake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// execLingers is how long the pipes of a finished exec may stay open: what it left behind must not hold up the bake.
const execLingers = 2 * time.Second

// container is the sacrificial container, run by runc out of dir.
type container struct {
	id, dir string
	runc    *runc.Runc
	logs    *logs
	streams *streams
	netns   *os.File
	pid     int
	pidfd   *linux.Pidfd
}

// streams are the three pipes that are the app's standard streams.
type streams struct{ runc.IO }

// Set gives runc create the app's ends. Until it has created the container it dies with the thread that started it: what is half made
// would belong to nobody.
func (s *streams) Set(cmd *exec.Cmd) {
	s.IO.Set(cmd)
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

// CloseAfterStart closes the app's ends of stdout and stderr here, so that the readers see the end when the app has ended.
func (s *streams) CloseAfterStart() error {
	if c, ok := s.IO.(runc.StartCloser); ok {
		return c.CloseAfterStart()
	}
	return nil
}

// newContainer opens what the container needs: a fresh network namespace and the pipes.
func newContainer(id, dir, runcPath string, user specs.User, l *logs) (*container, error) {
	c := &container{id: id, dir: dir, logs: l, runc: &runc.Runc{
		Command:   runcPath,
		Root:      filepath.Join(dir, "runc"),
		Log:       filepath.Join(dir, "runc.log"),
		LogFormat: runc.JSON,
	}}
	netns, err := linux.NewNetNS()
	if err != nil {
		return nil, fmt.Errorf("make network namespace: %w", err)
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

// boot creates and starts the container over the overlay.
func (c *container) boot(ctx context.Context, adapted *specs.Spec, overlay []string) error {
	// runc opens the path in a process of its own: through our /proc it finds the namespace, which has no other name.
	spec, err := withNetNS(adapted, fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), c.netns.Fd()))
	if err != nil {
		return err
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	if err := os.WriteFile(filepath.Join(c.dir, "config.json"), data, 0o600); err != nil {
		return err
	}
	if err := c.create(ctx, overlay); err != nil {
		return err
	}
	return c.start(ctx)
}

// create mounts the overlay where only runc create and its container see it.
func (c *container) create(ctx context.Context, overlay []string) error {
	pidFile := filepath.Join(c.dir, "init.pid")
	err := linux.Enter(nil, func() error {
		if err := linux.PrivateMounts(); err != nil {
			return fmt.Errorf("make mount namespace: %w", err)
		}
		if err := linux.Overlay(filepath.Join(c.dir, "rootfs"), overlay); err != nil {
			return fmt.Errorf("mount overlay: %w", err)
		}
		if err := c.runc.Create(ctx, c.id, c.dir, &runc.CreateOpts{IO: c.streams, PidFile: pidFile}); err != nil {
			return c.runcError("create", err)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if c.pid, err = readPid(pidFile); err != nil {
		return err
	}
	// runc's init waits for start: the pid cannot be another's yet.
	if c.pidfd, err = linux.OpenPidfd(c.pid); err != nil {
		return fmt.Errorf("watch process %d: %w", c.pid, err)
	}
	return nil
}

func (c *container) start(ctx context.Context) error {
	if err := c.runc.Start(ctx, c.id); err != nil {
		return c.runcError("start", err)
	}
	return nil
}

// runcError says what runc has logged, which is more than its exit status.
func (c *container) runcError(verb string, err error) error {
	data, readErr := os.ReadFile(c.runc.Log)
	if readErr != nil {
		return fmt.Errorf("runc %s: %w", verb, err)
	}
	said := ""
	for line := range bytes.Lines(data) {
		var entry struct{ Level, Msg string }
		if json.Unmarshal(line, &entry) == nil && (entry.Level == "error" || entry.Level == "fatal") {
			said = entry.Msg
		}
	}
	if said == "" {
		return fmt.Errorf("runc %s: %w", verb, err)
	}
	return fmt.Errorf("runc %s: %s: %w", verb, printable(said), err)
}

// exec runs a command in the container as the app's user, with its environment, and waits for it. It has ended when exec returns, also when
// ctx ended first: whatever still runs would be dumped with the app.
func (c *container) exec(ctx context.Context, words []string) error {
	pidFile := filepath.Join(c.dir, "exec.pid")
	if err := os.RemoveAll(pidFile); err != nil {
		return err
	}
	args := append([]string{"--root", c.runc.Root, "exec", "--pid-file", pidFile, c.id}, words...)
	cmd := exec.CommandContext(ctx, c.runc.Command, args...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = execLingers
	cmd.Cancel = func() error {
		if pid, err := readPid(pidFile); err == nil {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
		return cmd.Process.Kill()
	}
	if err := cmd.Run(); err != nil {
		if line := out.line(); line != "" {
			return fmt.Errorf("%w: %s", err, line)
		}
		return err
	}
	return nil
}

// close gives back what Run's process holds of the container. The container must have ended.
func (c *container) close() {
	if c.streams != nil {
		c.streams.Close()
		c.logs.readers.Wait()
	}
	if c.pidfd != nil {
		c.pidfd.Close()
	}
	c.netns.Close()
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

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - keptLineBytes; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(p), nil
}

// line gives the last line.
func (t *tail) line() string {
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return printable(lines[len(lines)-1])
}
