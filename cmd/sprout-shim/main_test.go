package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"

	"github.com/sproutrun/sprout/seedpool"
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

func newIdleShim(t *testing.T) *idleShim {
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
	s := &idleShim{t: t, dir: dir, cmd: exec.Command(binary, "idle"), control: os.NewFile(uintptr(pair[0]), "control"), ended: make(chan error, 1)}
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
		ContainerdTTRPC: filepath.Join(s.dir, "c.ttrpc"), Env: []string{"PATH=/bin", "SPROUT_RUN_DIR=" + s.dir},
	}
}

// assign sends a line and returns the shim's.
func (s *idleShim) assign(p seedpool.ShimParams) string {
	s.t.Helper()
	if err := json.NewEncoder(s.control).Encode(p); err != nil {
		s.t.Fatal(err)
	}
	line, err := bufio.NewReader(s.control).ReadString('\n')
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
