package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// daemon is one process of the stack's own.
type daemon struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error
}

func (s *Stack) spawn(name string, args ...string) (*daemon, error) {
	file, err := os.OpenFile(s.path(name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	d := &daemon{name: name, log: file, done: make(chan struct{})}
	d.cmd = exec.Command(s.bin(name), args...)
	d.cmd.Env = s.environ()
	d.cmd.Dir = s.Dir
	if d.cmd.Stderr = io.Writer(file); s.log != nil {
		d.cmd.Stderr = io.MultiWriter(file, s.log)
	}
	d.cmd.Stdout = d.cmd.Stderr
	// A shim that outlives containerd holds its stderr: do not wait for those.
	d.cmd.WaitDelay = time.Second
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s (run `make tools build` first?): %w", name, err), file.Close())
	}
	go func() {
		defer close(d.done)
		d.err = d.cmd.Wait()
		_ = file.Close()
	}()
	return d, nil
}

// waitSocket dials until the daemon accepts; containerd and sproutd give no other sign that reaches a process which did not start them by systemd.
func (d *daemon) waitSocket(ctx context.Context, path string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := net.Dial("unix", path)
		if err == nil {
			return c.Close()
		}
		select {
		case <-d.done:
			return fmt.Errorf("start %s: ended early (%v), see %s", d.name, d.err, d.log.Name())
		case <-ctx.Done():
			return fmt.Errorf("start %s: %s does not answer, see %s: %w", d.name, path, d.log.Name(), ctx.Err())
		case <-tick.C:
		}
	}
}

// Spawn starts another daemon of the build directory for the stack, which ends it before its own. Its log is Dir/NAME.log.
func (s *Stack) Spawn(name string, args ...string) error {
	d, err := s.spawn(name, args...)
	if err == nil {
		s.others = append(s.others, d)
	}
	return err
}

// StopSpawned ends what Spawn has started, the last one first.
func (s *Stack) StopSpawned() error {
	var errs []error
	for len(s.others) > 0 {
		last := len(s.others) - 1
		errs = append(errs, s.others[last].stop())
		s.others = s.others[:last]
	}
	return errors.Join(errs...)
}

func (d *daemon) pid() int {
	if d == nil {
		return 0
	}
	return d.cmd.Process.Pid
}

// stop asks the daemon to end, and ends it when it does not.
func (d *daemon) stop() error {
	if d == nil {
		return nil
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	select {
	case <-d.done:
		return nil
	case <-time.After(20 * time.Second):
		return errors.Join(fmt.Errorf("stop %s: it ignored SIGTERM for 20 s and was killed", d.name), d.cmd.Process.Kill())
	}
}

// strayTime is how long processes may take that end by themselves: a keeper ends its template first, for which it gives itself ten seconds.
const strayTime = 20 * time.Second

// endStrays ends what carries the stack's directory in its environment or arguments and is still alive: shims, keepers, instances' helpers.
// Naming them in an error is what makes a leak visible to the tests.
func (s *Stack) endStrays() error {
	// A shim answers its last call before it ends.
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	for deadline := time.Now().Add(strayTime); len(s.Processes()) > 0 && time.Now().Before(deadline); {
		<-look.C
	}
	var found []string
	for _, pid := range s.Processes() {
		cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			continue
		}
		found = append(found, fmt.Sprintf("%d (%s)", pid, strings.ReplaceAll(strings.TrimRight(string(cmdline), "\x00"), "\x00", " ")))
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	if len(found) > 0 {
		return fmt.Errorf("processes left behind, killed: %s", strings.Join(found, "; "))
	}
	return nil
}

// Processes lists the processes of the stack other than its two daemons and the caller, known by the stack's directory in their environment.
func (s *Stack) Processes() []int {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return nil
	}
	var pids []int
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() || pid == s.containerd.pid() || pid == s.sproutd.pid() {
			continue
		}
		if env, err := os.ReadFile(filepath.Join(dir, "environ")); err == nil && strings.Contains(string(env), "SPROUT_RUN_DIR="+s.RunDir()+"\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// logTail is how many bytes of each daemon's log Logs returns.
const logTail = 6000

// Logs is the end of the daemons' logs: what a failed test wants to show.
func (s *Stack) Logs() string {
	var b strings.Builder
	names := []string{"containerd", "sproutd"}
	for _, d := range s.others {
		names = append(names, d.name)
	}
	for _, name := range names {
		data, err := os.ReadFile(s.path(name + ".log"))
		if err != nil {
			continue
		}
		fmt.Fprintf(&b, "--- end of %s.log\n%s\n", name, data[max(0, len(data)-logTail):])
	}
	return b.String()
}

// removeNamespace removes what runc makes for a containerd namespace and leaves, its cgroup and the directory of its states, and reports a cgroup that
// sproutd should have removed.
func (s *Stack) removeNamespace() error {
	var errs []error
	if err := os.Remove(filepath.Join("/run/containerd/runc", s.Namespace)); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, pattern := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
		left, err := filepath.Glob(pattern + s.CgroupRoot())
		errs = append(errs, err)
		for _, dir := range left {
			errs = append(errs, fmt.Errorf("cgroup left behind: %s", dir))
		}
		empty, err := filepath.Glob(filepath.Join(pattern, s.Namespace))
		errs = append(errs, err)
		for _, dir := range empty {
			errs = append(errs, os.Remove(dir))
		}
	}
	return errors.Join(errs...)
}
