package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// binary is the shim, built once.
var binary string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "sprout-shim-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "sprout-shim")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w: %s", err, out)
	}
	return m.Run(), nil
}

// idleShim is a started idle shim, and sproutd's end of its control socket.
type idleShim struct {
	t       *testing.T
	dir     string
	cmd     *exec.Cmd
	control *os.File
	ended   chan error
}

// newIdleShim starts an idle shim, if need be by a program that runs the command behind its own arguments.
func newIdleShim(t *testing.T, by ...string) *idleShim {
	t.Helper()
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "ss-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	argv := append(by, binary, "idle")
	s := &idleShim{t: t, dir: dir, cmd: exec.Command(argv[0], argv[1:]...), control: os.NewFile(uintptr(pair[0]), "control"), ended: make(chan error, 1)}
	theirs := os.NewFile(uintptr(pair[1]), "theirs")
	s.cmd.ExtraFiles = []*os.File{theirs}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = theirs.Close()
	go func() { s.ended <- s.cmd.Wait() }()
	t.Cleanup(func() {
		_ = s.control.Close()
		_ = s.cmd.Process.Kill()
	})
	return s
}

func (s *idleShim) params() seedpool.ShimParams {
	return seedpool.ShimParams{
		Namespace: "ns", ID: "c1", Group: "c1", Bundle: s.dir, Address: "unix://" + filepath.Join(s.dir, "s"),
		ContainerdTTRPC: filepath.Join(s.dir, "c.ttrpc"), Env: []string{"PATH=/bin", "SPROUT_RUN_DIR=" + s.dir}, Launcher: os.Getpid(),
	}
}

// assign waits until the shim is ready, sends a line and returns the shim's.
func (s *idleShim) assign(p seedpool.ShimParams) string {
	s.t.Helper()
	said := bufio.NewReader(s.control)
	if line, err := said.ReadString('\n'); err != nil || line != `{"ready":true}`+"\n" {
		s.t.Fatalf("the shim began with %q, %v", line, err)
	}
	if err := json.NewEncoder(s.control).Encode(p); err != nil {
		s.t.Fatal(err)
	}
	line, err := said.ReadString('\n')
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(line)
}

func (s *idleShim) wait() error {
	s.t.Helper()
	select {
	case err := <-s.ended:
		return err
	case <-time.After(10 * time.Second):
		s.t.Fatal("the shim goes on")
		return nil
	}
}

func TestIdleShimServesOnceItIsAssignedAndOutlivesSproutd(t *testing.T) {
	s := newIdleShim(t)
	if got := s.assign(s.params()); got != `{"ok":true}` {
		t.Fatalf("it answers %s", got)
	}
	_ = s.control.Close()
	conn, err := net.Dial("unix", filepath.Join(s.dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(t.Context(), "ns"), 10*time.Second)
	defer cancel()
	task := taskAPI.NewTTRPCTaskClient(client)
	resp, err := task.Connect(ctx, &taskAPI.ConnectRequest{ID: "c1"})
	if err != nil || int(resp.ShimPid) != s.cmd.Process.Pid {
		t.Errorf("connect: %v, %v", resp, err)
	}
	cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", s.cmd.Process.Pid))
	if err != nil || cwd != s.dir {
		t.Errorf("it works in %s, %v", cwd, err)
	}
	if _, err := task.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: "c1"}); err != nil && !strings.Contains(err.Error(), "closed") {
		t.Error(err)
	}
	if err := s.wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "s")); !os.IsNotExist(err) {
		t.Errorf("its socket: %v", err)
	}
}

func TestIdleShimEndsWithSproutd(t *testing.T) {
	s := newIdleShim(t)
	_ = s.control.Close()
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

func TestIdleShimLeavesTheSocketOfAnotherAlone(t *testing.T) {
	s := newIdleShim(t)
	l, err := net.Listen("unix", filepath.Join(s.dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if got := s.assign(s.params()); !strings.Contains(got, "file exists") {
		t.Errorf("it answers %s", got)
	}
	if err := s.wait(); err == nil {
		t.Error("it ended without an error")
	}
	if _, err := os.Stat(filepath.Join(s.dir, "s")); err != nil {
		t.Error(err)
	}
}

func TestIdleShimRefusesABundleThatIsGone(t *testing.T) {
	s := newIdleShim(t)
	p := s.params()
	p.Bundle = filepath.Join(s.dir, "gone")
	if got := s.assign(p); !strings.HasPrefix(got, `{"error":"enter bundle`) {
		t.Errorf("it answers %s", got)
	}
	if err := s.wait(); err == nil {
		t.Error("it ended without an error")
	}
}

func TestIdleShimRefusesToStandInForALauncherThatPassesOnSomethingElse(t *testing.T) {
	for _, c := range []struct {
		differs string
		by      []string
	}{
		{"CapBnd", []string{"setpriv", "--bounding-set=-sys_module"}},
		{"NoNewPrivs", []string{"setpriv", "--no-new-privs"}},
		{"ns/mnt", []string{"unshare", "--mount"}},
		{"nice", []string{"nice", "-n", "3"}},
		{"Umask", []string{"sh", "-c", `umask 0077; exec "$@"`, "sh"}},
		{"SigIgn", otherHangup()},
		{"open files", []string{"prlimit", "--nofile=512:512"}},
	} {
		t.Run(c.differs, func(t *testing.T) {
			s := newIdleShim(t, c.by...)
			if got := s.assign(s.params()); !strings.Contains(got, "stand in for launcher") || !strings.Contains(got, c.differs) {
				t.Errorf("it answers %s", got)
			}
			if err := s.wait(); err == nil {
				t.Error("it ended without an error")
			}
			if _, err := os.Stat(filepath.Join(s.dir, "s")); !os.IsNotExist(err) {
				t.Errorf("its socket: %v", err)
			}
		})
	}
}

// otherHangup returns a command that turns round what this process does with SIGHUP, which nohup ignores: a Go program keeps
// no other signal than SIGHUP and SIGINT ignored (os/signal).
func otherHangup() []string {
	if signal.Ignored(syscall.SIGHUP) {
		return []string{"env", "--default-signal=HUP"}
	}
	return []string{"env", "--ignore-signal=HUP"}
}

func TestIdleShimRefusesALauncherThatIsGone(t *testing.T) {
	s := newIdleShim(t)
	p := s.params()
	p.Launcher = 0
	if got := s.assign(p); !strings.Contains(got, "read surroundings") {
		t.Errorf("it answers %s", got)
	}
}

func TestIdleShimTakesOverTheLimitsOfTheLauncher(t *testing.T) {
	const name = "RLIMIT_STACK"
	want, err := linux.GetRlimit(os.Getpid(), name)
	if err != nil {
		t.Fatal(err)
	}
	s := newIdleShim(t, "prlimit", "--stack=4194304:")
	if got := s.assign(s.params()); got != `{"ok":true}` {
		t.Fatalf("it answers %s", got)
	}
	if got, err := linux.GetRlimit(s.cmd.Process.Pid, name); err != nil || got != want {
		t.Errorf("limit %+v, %v, want %+v", got, err, want)
	}
}
