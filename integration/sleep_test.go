package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/integration/stack"
)

// doze puts a container to sleep and returns the pid that its init had.
func doze(t *testing.T, s *stack.Stack, id string) int {
	t.Helper()
	was := pid(t, s, id)
	if _, err := s.Sprout(t.Context(), "sleep", id); err != nil {
		t.Fatal(err)
	}
	// Of one that has ended, and is not waited for yet, the command line is empty.
	if args, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(was), "cmdline")); err == nil && len(args) > 0 {
		t.Errorf("process %d of sleeping %s is there", was, id)
	}
	return was
}

func rouse(t *testing.T, s *stack.Stack, id string) {
	t.Helper()
	if _, err := s.Sprout(t.Context(), "wake", id); err != nil {
		t.Fatal(err)
	}
}

// status is what containerd says of a task.
func status(t *testing.T, s *stack.Stack, id string) string {
	t.Helper()
	ctx := s.Context(t.Context())
	c, err := s.Client.LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	st, err := task.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return string(st.Status)
}

// counting is an app whose state is in its memory alone.
const counting = `import http.server
n = 0
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global n
        n += 1
        body = (open(self.path[5:]).read() if self.path.startswith("/file") else str(n)).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *a): pass
print("ready", flush=True)
http.server.HTTPServer(("", 8080), H).serve_forever()`

// counter is the command of the app.
var counter = []string{"python3", "-c", counting}

// counters makes a stack with a seed of the app.
func counters(t *testing.T) *stack.Stack {
	t.Helper()
	s := ownStack(t, "python-demo")
	baked(t, s, "counter", "python-demo", append([]string{"--ready", "http://:8080/", "--"}, counter...)...)
	return s
}

// runCounter starts a container of the app; ctr's named pipes could not be found again when containerd has dropped the task.
func runCounter(t *testing.T, s *stack.Stack, id string, args ...string) {
	t.Helper()
	list := append([]string{"run", "-d", "--null-io", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter}, args...)
	if _, err := s.Ctr(t.Context(), append(append(list, stack.Ref("python-demo"), id), counter...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s, id) })
	wantRung(t, s, id, "restore")
}

func TestSleeperGoesOnWhereItStopped(t *testing.T) {
	s := counters(t)
	t.Run("wakes", func(t *testing.T) { sleepAndWake(t, s) })
	remove(t, s, "c1")
	t.Run("shim killed", func(t *testing.T) { killSleepersShim(t, s) })
	t.Run("seed removed", func(t *testing.T) { removeSleepersSeed(t, s) })
}

// onDisk is what a sleeping container takes on disk, and what it would take if its image were whole.
func onDisk(t *testing.T, s *stack.Stack, id string) (bytes, full uint64) {
	t.Helper()
	out, err := s.Sprout(t.Context(), "explain", "--json", id)
	if err != nil {
		t.Fatal(err)
	}
	var starts []struct {
		Rest struct {
			Bytes, Full uint64 `json:",string"`
		}
	}
	if err := json.Unmarshal([]byte(out), &starts); err != nil || len(starts) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return starts[0].Rest.Bytes, starts[0].Rest.Full
}

func sleepAndWake(t *testing.T, s *stack.Stack) {
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 late\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	runCounter(t, s, "c1", "--mount", "type=bind,src="+hosts+",dst=/etc/hosts,options=rbind:ro")
	if err := stack.GetMany(pid(t, s, "c1"), "8080", "/", 1000); err != nil {
		t.Fatal(err)
	}
	before, err := strconv.Atoi(get(t, s, "c1", "/"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Ctr(t.Context(), "task", "exec", "--exec-id", "e1", "c1", "sh", "-c", "echo kept >/tmp/mine; echo kept >/dev/shm/mine"); err != nil {
		t.Fatal(err)
	}
	generation := get(t, s, "c1", "/file/run/sprout/generation")
	was := doze(t, s, "c1")
	if got := status(t, s, "c1"); got != "paused" {
		t.Errorf("asleep it is %s to containerd, want paused", got)
	}
	if bytes := memoryOf(t, s, "c1"); bytes > 2<<20 {
		t.Errorf("asleep it takes %d bytes of memory", bytes)
	}
	if out, err := s.Sprout(t.Context(), "ps"); err != nil || !strings.Contains(out, "MiB on disk, of ") {
		t.Errorf("ps does not show what it takes on disk: %v %s", err, out)
	}
	if has, all := onDisk(t, s, "c1"); has > all/4 {
		t.Errorf("asleep it takes %d of %d bytes on disk", has, all)
	}
	for _, victim := range victims {
		if victim.name != "shim" {
			victim.kill(t, s)
		}
	}
	rouse(t, s, "c1")
	now := pid(t, s, "c1")
	if now == was {
		t.Errorf("the pid is still %d", now)
	}
	// One request more was the probe's, another is this one.
	if after, err := strconv.Atoi(get(t, s, "c1", "/")); err != nil || after <= before || after > before+4 {
		t.Errorf("it counts %d after %d, %v", after, before, err)
	}
	for _, path := range []string{"/tmp/mine", "/dev/shm/mine"} {
		if got := get(t, s, "c1", "/file"+path); got != "kept" {
			t.Errorf("%s: %q, want kept", path, got)
		}
	}
	if got := get(t, s, "c1", "/file/etc/hosts"); got != "127.0.0.1 late" {
		t.Errorf("a mount of its own is gone: /etc/hosts is %q", got)
	}
	if get(t, s, "c1", "/file/run/sprout/generation") == generation {
		t.Error("the generation is the same after the wake")
	}
	if left := sleepers(s); len(left) > 0 {
		t.Errorf("images of one that is awake: %v", left)
	}
	doze(t, s, "c1") // as often as it likes
	failToWake(t, s, "c1")
	if _, err := s.Ctr(t.Context(), "task", "resume", "c1"); err != nil {
		t.Fatal(err)
	}
	get(t, s, "c1", "/")
	if out := explain(t, s, "c1"); !strings.Contains(out, "woken 2 times") {
		t.Errorf("explain: %s", out)
	}
}

// failToWake takes the image of a sleeping container away for a moment: what cannot be woken sleeps on.
func failToWake(t *testing.T, s *stack.Stack, id string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(s.Dir, "lib/sleeping/*/images/pages-1.img"))
	if err != nil || len(list) != 1 {
		t.Fatalf("images of sleeping containers: %v %v", list, err)
	}
	if err := os.Rename(list[0], list[0]+".away"); err != nil {
		t.Fatal(err)
	}
	refused(t, s, "image-damaged", "wake", id)
	if got := status(t, s, id); got != "paused" {
		t.Errorf("after a wake that failed it is %s to containerd, want paused", got)
	}
	if err := os.Rename(list[0]+".away", list[0]); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pages-1.img", "core-1.img"} {
		damagedSleepsOn(t, s, id, filepath.Join(filepath.Dir(list[0]), name))
	}
}

// damagedSleepsOn flips a bit of a sleeping container's image for a moment.
func damagedSleepsOn(t *testing.T, s *stack.Stack, id, file string) {
	t.Helper()
	flip := func() {
		t.Helper()
		data, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		data[len(data)/2] ^= 1
		if err := os.WriteFile(file, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	flip()
	refused(t, s, "image-damaged", "wake", id)
	if got := status(t, s, id); got != "paused" {
		t.Errorf("with a damaged %s it is %s to containerd after the wake, want paused", filepath.Base(file), got)
	}
	flip()
}

// removeSleepersSeed removes the seed with which a sleeping container has most of its image in common.
func removeSleepersSeed(t *testing.T, s *stack.Stack) {
	runCounter(t, s, "orphan")
	before := get(t, s, "orphan", "/")
	doze(t, s, "orphan")
	if _, err := s.Sprout(t.Context(), "seed", "rm", "counter"); err != nil {
		t.Fatal(err)
	}
	list, err := filepath.Glob(filepath.Join(s.Dir, "lib/sleeping/*/images/parent/pages-1.img"))
	if err != nil || len(list) != 1 {
		t.Fatalf("memory that was the seed's: %v %v", list, err)
	}
	damagedSleepsOn(t, s, "orphan", list[0])
	rouse(t, s, "orphan")
	if after := get(t, s, "orphan", "/"); len(after) < len(before) || after <= before && len(after) == len(before) {
		t.Errorf("it counts %s after %s", after, before)
	}
	doze(t, s, "orphan") // with an image that is whole
	rouse(t, s, "orphan")
	get(t, s, "orphan", "/")
}

// killSleepersShim kills the shim of a container that sleeps, and of one that is being woken.
func killSleepersShim(t *testing.T, s *stack.Stack) {
	before := rested(t, s)
	for _, when := range []string{"asleep", "waking"} {
		runCounter(t, s, when)
		doze(t, s, when)
		shim, waking := shimOf(t, s, when), make(chan struct{})
		go func() {
			defer close(waking)
			if when == "waking" {
				_, _ = s.Sprout(contextOf(t), "wake", when)
			}
		}()
		if when == "waking" {
			time.Sleep(20 * time.Millisecond) // into the middle of it, most of the time
		}
		kill(t, shim)
		<-waking
	}
	sweep(t, s)
	if left := settled(t, s, before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
	if left := sleepers(s); len(left) > 0 {
		t.Errorf("images of containers that are gone: %v", left)
	}
}

// sleepers lists the images of sleeping containers, when nobody is at work at them.
func sleepers(s *stack.Stack) (names []string) {
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		list, _ := filepath.Glob(filepath.Join(s.Dir, "lib/sleeping/*"))
		if len(list) == 0 || time.Now().After(deadline) {
			return list
		}
	}
}

// memoryOf is what a container's cgroups are charged with, in bytes.
func memoryOf(t *testing.T, s *stack.Stack, id string) (bytes int) {
	t.Helper()
	files, err := filepath.Glob("/sys/fs/cgroup/memory/" + s.Namespace + "/" + id + "/memory.usage_in_bytes")
	if err != nil || len(files) != 1 {
		t.Fatalf("cgroup of %s: %v %v", id, files, err)
	}
	data, err := os.ReadFile(files[0])
	if err == nil {
		bytes, err = strconv.Atoi(strings.TrimSpace(string(data)))
	}
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// sprout is the command line's answer, which is to be a refusal for a reason.
func refused(t *testing.T, s *stack.Stack, reason string, args ...string) {
	t.Helper()
	if out, err := s.Sprout(t.Context(), args...); err == nil || !strings.Contains(err.Error(), "("+reason+")") {
		t.Errorf("sprout %v: %v %s, want a refusal: %s", args, err, out, reason)
	}
}

func TestWhatCannotSleepRunsOn(t *testing.T) {
	seed := bakedPython(t, house)
	setPool(t, house, seed, 0)
	run(t, house, "busy", "python-demo")
	was := pid(t, house, "busy")
	ctx := house.Context(t.Context())
	c, err := house.Client.LoadContainer(ctx, "busy")
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	exec, err := task.Exec(ctx, "e1", &specs.Process{Args: []string{"sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}}, cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	if err := exec.Start(ctx); err != nil {
		t.Fatal(err)
	}
	refused(t, house, "execs", "sleep", "busy")
	if _, err := exec.Delete(ctx, containerd.WithProcessKill); err != nil {
		t.Fatal(err)
	}
	var conn net.Conn
	if err := stack.InNetNS(was, func() (err error) { conn, err = net.Dial("tcp", "127.0.0.1:8080"); return err }); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	refused(t, house, "connections", "sleep", "busy")
	run(t, house, "cold", "python-demo", "--env", "NOT_IN_ANY_SEED=1")
	refused(t, house, "cold", "sleep", "cold")
	if now := pid(t, house, "busy"); now != was {
		t.Errorf("pid %d after refusals, %d before", now, was)
	}
	get(t, house, "busy", "/")
	if _, err := house.Sprout(t.Context(), "sleep", "--close-connections", "busy"); err != nil {
		t.Error(err)
	}
	if _, err := task.Exec(ctx, "e2", &specs.Process{Args: []string{"true"}, Cwd: "/"}, cio.NullIO); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("exec in a sleeping container: %v, want a failed precondition", err)
	}
}

func TestSignalEndsOrWakesSleeper(t *testing.T) {
	seed := bakedPython(t, house)
	for name, want := range map[syscall.Signal]uint32{syscall.SIGKILL: 137, syscall.SIGTERM: 0} {
		id := fmt.Sprintf("signalled-%d", name)
		setPool(t, house, seed, 1)
		run(t, house, id, "python-demo")
		wantRung(t, house, id, "thaw")
		get(t, house, id, "/")
		doze(t, house, id)
		ctx := house.Context(t.Context())
		c, err := house.Client.LoadContainer(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		task, err := c.Task(ctx, nil)
		if err != nil {
			t.Fatal(err)
		}
		exit, err := task.Wait(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if err := task.Kill(ctx, name); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-exit:
			if got.ExitCode() != want {
				t.Errorf("%v: exit status %d, want %d", name, got.ExitCode(), want)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("%v did not end it", name)
		}
		remove(t, house, id)
	}
	if left := sleepers(house); len(left) > 0 {
		t.Errorf("images of containers that are gone: %v", left)
	}
}
