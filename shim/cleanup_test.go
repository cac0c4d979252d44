package shim

import (
	"bytes"
	"encoding/json"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	shimrunc "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/runc"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// wreck is what a killed shim leaves: a bundle, a frozen process in a cgroup, the instance's directory, a start record, a socket.
type wreck struct {
	t      *testing.T
	paths  seedpool.Paths
	bundle string
	cgroup linux.Cgroup
	inst   boundInstance
	socket string
}

func newWreck(t *testing.T) *wreck {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(seedpool.RunDirEnv, dir)
	t.Setenv("PATH", filepath.Dir(tool(t, "runc"))+":"+os.Getenv("PATH"))
	// Cleanup enters the bundle; it is a process of its own otherwise.
	t.Chdir(dir)
	w := &wreck{t: t, paths: seedpool.Paths{RunDir: dir}, bundle: filepath.Join(dir, "ns", "c1")}
	w.cgroup = linux.Cgroup{Path: "/sprout-wreck-" + strconv.Itoa(os.Getpid())}
	w.inst = boundInstance{Cgroup: w.cgroup.Path, ExitFile: filepath.Join(w.paths.InstanceDir("i1"), "exit")}
	w.write(w.inst.ExitFile, nil)
	w.write(w.paths.StartRecord("ns", "c1"), []byte("{}"))
	w.socket = filepath.Join(dir, "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	w.write(filepath.Join(w.bundle, "bootstrap.json"), []byte(`{"version":3,"address":"unix://`+w.socket+`"}`))
	return w
}

func (w *wreck) write(path string, data []byte) {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		w.t.Fatal(err)
	}
	if data == nil {
		return
	}
	if err := os.WriteFile(path, data, 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// sleeper puts a frozen process into the cgroup; its parent writes the exit file, as a keeper does.
func (w *wreck) sleeper() {
	w.t.Helper()
	if err := w.cgroup.Create(); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := w.cgroup.Remove(); err != nil {
			w.t.Error(err)
		}
	})
	c := exec.Command("sleep", "1000")
	exits, err := reaper.Default.Start(c)
	if err != nil {
		w.t.Fatal(err)
	}
	w.inst.PID = c.Process.Pid
	if err := w.cgroup.Attach(c.Process.Pid); err != nil {
		w.t.Fatal(err)
	}
	if err := w.cgroup.Freeze(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	go func() {
		_, _ = reaper.Default.Wait(c, exits)
		_ = writeFile(w.inst.ExitFile, []byte(`{"status":`+strconv.Itoa(int(syscall.SIGKILL))+`,"at":"2026-01-02T03:04:05Z"}`))
	}()
}

// hold has v1's freezer, if there is one, hold the sleeper, as while it is moved: in v2 it is told to freeze, and has not.
func (w *wreck) hold() {
	w.t.Helper()
	roots, err := linux.Hierarchies()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, root := range roots {
		state := filepath.Join(root, w.cgroup.Path, "freezer.state")
		if _, err := os.Stat(state); err != nil {
			continue
		}
		if err := w.cgroup.Thaw(); err != nil {
			w.t.Fatal(err)
		}
		w.write(state, []byte("FROZEN"))
		for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(time.Millisecond) {
			if data, err := os.ReadFile(state); err != nil || time.Now().After(deadline) {
				w.t.Fatalf("it is %s: %v", data, err)
			} else if strings.TrimSpace(string(data)) == "FROZEN" {
				break
			}
		}
		if err := w.cgroup.SetFrozen(true); err != nil {
			w.t.Fatal(err)
		}
		if frozen, err := w.cgroup.Frozen(); err != nil || frozen {
			w.t.Errorf("frozen in v2 while v1 holds it: %v, %v", frozen, err)
		}
	}
}

// clean writes the instance's file, if it has one, and cleans up.
func (w *wreck) clean(instance bool) *taskAPI.DeleteResponse {
	w.t.Helper()
	if instance {
		data, err := json.Marshal(w.inst)
		if err != nil {
			w.t.Fatal(err)
		}
		w.write(filepath.Join(w.bundle, instanceFileName), data)
	}
	var out bytes.Buffer
	if err := Cleanup(w.t.Context(), &out, "ns", "c1", w.bundle); err != nil {
		w.t.Fatal(err)
	}
	var got taskAPI.DeleteResponse
	if err := proto.Unmarshal(out.Bytes(), &got); err != nil {
		w.t.Fatal(err)
	}
	for _, path := range []string{w.socket, w.paths.StartRecord("ns", "c1")} {
		if _, err := os.Lstat(path); !os.IsNotExist(err) {
			w.t.Errorf("%s is left: %v", path, err)
		}
	}
	return &got
}

func TestWokenContainerOfAKilledShimIsKilledAndRemoved(t *testing.T) {
	w := newWreck(t)
	w.sleeper()
	got := w.clean(true)
	if got.ExitStatus != 137 || int(got.Pid) != w.inst.PID || got.ExitedAt.AsTime().Year() != 2026 {
		t.Errorf("exit %v, want the keeper's word", got)
	}
	if linux.Alive(w.inst.PID, w.inst.StartTime) {
		t.Error("the container lives")
	}
	if _, err := os.Stat(w.paths.InstanceDir("i1")); !os.IsNotExist(err) {
		t.Errorf("the instance's directory is left: %v", err)
	}
}

func TestExitThatTheKeeperSawIsTold(t *testing.T) {
	w := newWreck(t)
	w.write(w.inst.ExitFile, []byte(`{"status":768,"at":"2026-01-02T03:04:05Z"}`))
	if got := w.clean(true); got.ExitStatus != 3 {
		t.Errorf("exit status %d, want 3", got.ExitStatus)
	}
}

func TestExitThatTheShimSawIsTold(t *testing.T) {
	w := newWreck(t)
	if err := shimrunc.WriteExitStatus(w.bundle, runc.Exit{Timestamp: time.Now(), Pid: 4711, Status: 9}); err != nil {
		t.Fatal(err)
	}
	if got := w.clean(true); got.ExitStatus != 9 || got.Pid != 4711 {
		t.Errorf("exit %v, want status 9 of 4711", got)
	}
}

func TestContainerThatCleanupEndsIsTold137(t *testing.T) {
	if got := newWreck(t).clean(false); got.ExitStatus != 137 {
		t.Errorf("exit status %d, want 137", got.ExitStatus)
	}
}

func TestContainerThatWasBeingWokenIsRemovedAndASharedCgroupIsNot(t *testing.T) {
	for name, cutOff := range map[string]bool{"cut off": true, "cut off while it was moved": true, "shared": false} {
		t.Run(name, func(t *testing.T) {
			w := newWreck(t)
			w.sleeper()
			if strings.HasSuffix(name, "moved") {
				w.hold()
			}
			w.write(filepath.Join(w.bundle, "config.json"), []byte(`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"cgroupsPath":"`+w.cgroup.Path+`"}}`))
			if !cutOff {
				if err := w.cgroup.Thaw(); err != nil {
					t.Fatal(err)
				}
			}
			start, err := linux.StartTime(w.inst.PID)
			if err != nil {
				t.Fatal(err)
			}
			w.clean(false)
			if alive := linux.Alive(w.inst.PID, start); alive == cutOff {
				t.Errorf("the process lives: %v", alive)
			}
			if _, err := w.cgroup.Frozen(); errors.Is(err, os.ErrNotExist) != cutOff {
				t.Errorf("the cgroup: %v", err)
			}
			if err := w.cgroup.Kill(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCgroupThatWasMadeInSomeHierarchiesOnlyIsRemoved(t *testing.T) {
	w := newWreck(t)
	if err := w.cgroup.Create(); err != nil {
		t.Fatal(err)
	}
	w.write(filepath.Join(w.bundle, "config.json"), []byte(`{"ociVersion":"1.2.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"cgroupsPath":"`+w.cgroup.Path+`"}}`))
	roots, err := linux.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	// runc makes that of v2 last.
	if err := os.Remove(filepath.Join(roots[len(roots)-1], w.cgroup.Path)); err != nil {
		t.Fatal(err)
	}
	w.clean(false)
	for _, root := range roots {
		if _, err := os.Stat(filepath.Join(root, w.cgroup.Path)); !os.IsNotExist(err) {
			t.Errorf("the cgroup in %s: %v", root, err)
		}
	}
}

func TestSocketOfAShimThatContainerdHasNotNotedIsRemoved(t *testing.T) {
	w := newWreck(t)
	if err := os.Rename(filepath.Join(w.bundle, "bootstrap.json"), filepath.Join(w.bundle, "elsewhere")); err != nil {
		t.Fatal(err)
	}
	w.write(filepath.Join(w.bundle, addressFileName), []byte("unix://"+w.socket))
	w.clean(false)
}

func TestSocketOfALivingPodIsLeft(t *testing.T) {
	w := newWreck(t)
	if err := os.Remove(w.socket); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", w.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := removeDeadSocket(w.bundle); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(w.socket); err != nil {
		t.Error(err)
	}
}
