package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// binaries is the directory with the launcher and the shim, built once.
var binaries string

func TestMain(m *testing.M) {
	code, err := buildAndRun(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(code)
}

func buildAndRun(m *testing.M) (int, error) {
	dir, err := os.MkdirTemp("", "sprout-launcher-")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	if out, err := exec.Command("go", "build", "-o", dir+"/", ".", "../sprout-shim").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w: %s", err, out)
	}
	binaries = dir
	return m.Run(), nil
}

// house is a containerd's view of launchers: a directory with bundles, sockets and no sproutd.
type house struct {
	t   *testing.T
	dir string
}

func newHouse(t *testing.T) *house {
	t.Helper()
	dir, err := os.MkdirTemp("", "sl-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &house{t: t, dir: dir}
}

func (h *house) bundle(id, config string) string {
	h.t.Helper()
	dir := filepath.Join(h.dir, "bundles", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		h.t.Fatal(err)
	}
	return dir
}

// launch runs the launcher as containerd does and returns what it prints, on both streams.
func (h *house) launch(id, verb string, stdin []byte) (string, error) {
	c := exec.Command(filepath.Join(binaries, "containerd-shim-sprout-v2"),
		"-namespace", "ns", "-address", filepath.Join(h.dir, "c.sock"), "-publish-binary", "/bin/false", "-id", id, verb)
	c.Dir = filepath.Join(h.dir, "bundles", id)
	c.Env = append(os.Environ(), "SPROUT_RUN_DIR="+h.dir, "TTRPC_ADDRESS="+filepath.Join(h.dir, "c.sock.ttrpc"))
	if stdin != nil {
		c.Stdin = bytes.NewReader(stdin)
	}
	out, err := c.CombinedOutput()
	return string(out), err
}

// start starts a container's shim in the older dialect, in which the address can be read without decoding.
func (h *house) start(id string) string {
	h.t.Helper()
	out, err := h.launch(id, "start", nil)
	if err != nil {
		h.t.Fatalf("start: %v: %s", err, out)
	}
	var answer struct{ Address string }
	if err := json.Unmarshal([]byte(out), &answer); err != nil {
		h.t.Fatalf("decode %q: %v", out, err)
	}
	h.t.Cleanup(func() { h.end(answer.Address) })
	return answer.Address
}

// ask connects to a shim.
func (h *house) ask(address string) (taskAPI.TTRPCTaskService, *ttrpc.Client, context.Context, error) {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(h.t.Context(), "ns"), 10*time.Second)
	h.t.Cleanup(cancel)
	conn, err := net.Dial("unix", socketPath(address))
	if err != nil {
		return nil, nil, ctx, err
	}
	client := ttrpc.NewClient(conn)
	return taskAPI.NewTTRPCTaskClient(client), client, ctx, nil
}

func (h *house) shimPID(address string) uint32 {
	h.t.Helper()
	task, client, ctx, err := h.ask(address)
	if err != nil {
		h.t.Fatal(err)
	}
	defer client.Close()
	resp, err := task.Connect(ctx, &taskAPI.ConnectRequest{ID: "x"})
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.ShimPid
}

// end asks a shim to end, and waits until it has.
func (h *house) end(address string) {
	h.t.Helper()
	conn, err := net.Dial("unix", socketPath(address))
	if err != nil {
		return
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "ns"), 10*time.Second)
	defer cancel()
	if _, err := taskAPI.NewTTRPCTaskClient(client).Shutdown(ctx, &taskAPI.ShutdownRequest{}); err != nil && !strings.Contains(err.Error(), "closed") {
		h.t.Error(err)
	}
	if err := client.UserOnCloseWait(ctx); err != nil {
		h.t.Error(err)
	}
	if _, err := os.Stat(socketPath(address)); !os.IsNotExist(err) {
		h.t.Errorf("the socket of an ended shim: %v", err)
	}
}

func TestShimServesWithoutSproutdAndEndsWhenAsked(t *testing.T) {
	h := newHouse(t)
	h.bundle("c1", `{}`)
	address := h.start("c1")
	if pid := h.shimPID(address); pid == 0 {
		t.Error("no shim")
	}
}

func TestPodMemberJoinsTheLivingShimOfItsPod(t *testing.T) {
	h := newHouse(t)
	config := `{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`
	h.bundle("pod", config)
	h.bundle("app", config)
	h.bundle("lone", `{}`)
	first, second, lone := h.start("pod"), h.start("app"), h.start("lone")
	if first != second || h.shimPID(first) != h.shimPID(second) {
		t.Errorf("two shims for one pod: %s and %s", first, second)
	}
	if lone == first {
		t.Error("a container without a pod joined one")
	}
}

func TestSocketOfADeadShimIsReplaced(t *testing.T) {
	h := newHouse(t)
	h.bundle("c1", `{}`)
	address := addressOf("", filepath.Join(h.dir, "c.sock"), "ns", "c1")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socketPath(address), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	_ = l.Close()
	if got := h.start("c1"); got != address || h.shimPID(got) == 0 {
		t.Errorf("address %s, want %s", got, address)
	}
}

// sproutd answers every request on assign.sock; no answer: it is silent.
func (h *house) sproutd(answer func(params) string) {
	h.t.Helper()
	l, err := net.Listen("unix", filepath.Join(h.dir, "assign.sock"))
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			line, _ := bufio.NewReader(conn).ReadBytes('\n')
			var p params
			if err := json.Unmarshal(line, &p); err != nil {
				fmt.Fprintf(conn, "{\"error\":%q}\n", err)
			} else if a := answer(p); a != "" {
				fmt.Fprintln(conn, a)
			} else {
				continue
			}
			_ = conn.Close()
		}
	}()
}

// rooted is a config.json whose container an idle shim may serve.
const rooted = `{"linux":{"cgroupsPath":"/ns/c1"}}`

func TestIdleShimOfSproutdIsTaken(t *testing.T) {
	h := newHouse(t)
	bundle := h.bundle("c1", rooted)
	asked := make(chan params, 1)
	h.sproutd(func(p params) string { asked <- p; return `{"address":"unix:///assigned"}` })
	if got := h.start("c1"); got != "unix:///assigned" {
		t.Errorf("address %s", got)
	}
	told := <-asked
	if told.Namespace != "ns" || told.ID != "c1" || told.Group != "c1" || told.Bundle != bundle || told.OOMScore == nil || told.Launcher == 0 || len(told.Env) == 0 {
		t.Errorf("sproutd was told %+v", told)
	}
}

func TestIdleShimIsNotAskedForWhereItsOwnCgroupCounts(t *testing.T) {
	for _, config := range []string{`{}`, `{"linux":{"cgroupsPath":"below"}}`, `{"linux":{"cgroupsPath":"a.slice:b:c"}}`} {
		h := newHouse(t)
		h.bundle("c1", config)
		h.sproutd(func(params) string { return `{"address":"unix:///assigned"}` })
		if got := h.start("c1"); got == "unix:///assigned" {
			t.Errorf("%s: an idle shim was taken", config)
		}
	}
	h := newHouse(t)
	h.bundle("c1", `{"linux":{"cgroupsPath":"a.slice:b:c"}}`)
	h.sproutd(func(params) string { return `{"address":"unix:///assigned"}` })
	systemd := marshal(t, &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: marshal(t, &options.Options{SystemdCgroup: true})})
	if out, err := h.launch("c1", "start", systemd); err != nil || !strings.Contains(out, "unix:///assigned") {
		t.Errorf("systemd's cgroup: %s, %v", out, err)
	}
}

func TestSproutdThatRefusesOrIsSilentCostsNoStart(t *testing.T) {
	for name, answer := range map[string]string{"refuses": `{"error":"no idle shim"}`, "is silent": "", "talks nonsense": `x`} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t)
			h.bundle("c1", rooted)
			h.sproutd(func(params) string { return answer })
			began := time.Now()
			if h.shimPID(h.start("c1")) == 0 {
				t.Error("no shim")
			}
			if took := time.Since(began); took > 2*time.Second {
				t.Errorf("the start took %v", took)
			}
		})
	}
}

func TestDeleteOfADeletedTaskTellsItsExit(t *testing.T) {
	h := newHouse(t)
	dir := h.bundle("c1", `{}`)
	if err := os.WriteFile(filepath.Join(dir, exitFile), []byte(`{"status":7,"at":"2026-01-02T03:04:05.6Z","pid":12}`), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := h.launch("c1", "delete", nil)
	var got taskAPI.DeleteResponse
	if err != nil || proto.Unmarshal([]byte(out), &got) != nil || got.ExitStatus != 7 || got.Pid != 12 {
		t.Errorf("%q, %v, %v", out, err, &got)
	}
}

func TestLauncherRefusesWhatItDoesNotKnow(t *testing.T) {
	h := newHouse(t)
	h.bundle("c1", `{}`)
	if out, err := h.launch("c1", "dance", nil); err == nil {
		t.Errorf("it printed %q", out)
	}
	if out, err := exec.Command(filepath.Join(binaries, "containerd-shim-sprout-v2"), "-v").CombinedOutput(); err != nil || !strings.Contains(string(out), version) {
		t.Errorf("-v: %s, %v", out, err)
	}
}

func TestIdleShimThatComesTooLateIsUsedAndNotTakenBack(t *testing.T) {
	h := newHouse(t)
	h.bundle("c1", rooted)
	heard := make(chan bool, 1)
	h.sproutd(func(p params) string {
		// It serves in time, but the word of it comes late.
		l, err := listen(p.Address)
		if err != nil {
			heard <- false
			return `{"error":"no"}`
		}
		t.Cleanup(func() { _ = l.Close(); _ = os.Remove(socketPath(p.Address)) })
		time.AfterFunc(2*assignTimeout, func() { heard <- true })
		<-heard
		heard <- true
		return fmt.Sprintf(`{"address":%q}`, p.Address)
	})
	out, err := h.launch("c1", "start", nil)
	if err != nil || !<-heard || !strings.Contains(out, addressOf("", filepath.Join(h.dir, "c.sock"), "ns", "c1")) {
		t.Errorf("%s, %v", out, err)
	}
}

func TestIdleShimThatComesTooLateAndIsTakenBackIsReplaced(t *testing.T) {
	h := newHouse(t)
	h.bundle("c1", rooted)
	h.sproutd(func(p params) string {
		// It serves, and is ended before sproutd says so, because that took too long.
		l, err := listen(p.Address)
		if err != nil {
			return `{"error":"no"}`
		}
		<-time.After(2 * assignTimeout)
		_ = l.Close()
		return `{"error":"too late"}`
	})
	if address := h.start("c1"); h.shimPID(address) == 0 {
		t.Errorf("nobody serves at %s", address)
	}
}
