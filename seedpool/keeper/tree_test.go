package keeper

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/testing/protocmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// prefork is a server whose workers have given up their capabilities: they share its listener, memory and an unlinked file with it.
const prefork = `import ctypes, mmap, os, signal, socket, struct, sys
assert ctypes.CDLL(None).syscall(222, 1, struct.pack("Qi52x", 7, 34), ctypes.byref(ctypes.c_int())) == 0
assert ctypes.CDLL(None).syscall(223, 0, 0, struct.pack("4Q", 0, 0, 1000, 0), None) == 0
shared = mmap.mmap(-1, 1 << 20)
listener = socket.socket()
listener.bind(("0.0.0.0", 8080))
listener.listen(64)
heart = os.open("/tmp/heart", os.O_RDWR | os.O_CREAT)
os.unlink("/tmp/heart")
os.write(heart, b"alive")
reports = []
for number in (1, 2):
    r, w = os.pipe()
    reports.append(r)
    if os.fork() == 0:
        assert ctypes.CDLL(None).capset(ctypes.byref((ctypes.c_uint32 * 2)(0x20080522, 0)), ctypes.byref((ctypes.c_uint32 * 6)())) == 0
        while True:
            c, _ = listener.accept()
            c.recv(1000)
            shared[number] = 1
            os.write(w, b"x")
            body = b"%d %d %s" % (os.getpid(), os.getppid(), os.pread(heart, 9, 0))
            c.send(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body); c.close()
signal.signal(signal.SIGTERM, lambda *a: os._exit(7))
while True: os.wait()
`

func preforked(s *specs.Spec) { s.Linux.Seccomp = seccomp.DefaultProfile(s) }

func TestATreeIsClonedWithTheCredentialsOfEachProcess(t *testing.T) {
	b := prepareBed(t, "python-demo")
	b.bake(b.img.Spec(t, "python3", "-c", prefork), "http://:8080/", preforked)
	b.spawn()
	restored := b.make("restored")
	for _, id := range []string{"one", "two"} {
		i := b.fork(id)
		c := linux.Cgroup{Path: i.Cgroup}
		pids, err := c.Procs()
		if frozen, ferr := c.Frozen(); err != nil || ferr != nil || !frozen || len(pids) != 3 {
			t.Fatalf("frozen %v, processes %v, %v, %v", frozen, pids, err, ferr)
		}
		if diff := cmp.Diff(restored.Credentials, i.Credentials, protocmp.Transform()); diff != "" {
			t.Errorf("credentials: %s", diff)
		}
		if timers, err := os.ReadFile(fmt.Sprintf("/proc/%d/timers", i.Pid)); err != nil || !strings.HasPrefix(string(timers), "ID: 0\nsignal: 34/0000000000000007\nnotify: signal/pid.") {
			t.Errorf("timers %q, %v", timers, err)
		}
		if err := c.Thaw(); err != nil {
			t.Fatal(err)
		}
		for range 10 {
			if err := bake.Probe(t.Context(), int(i.Pid), mustReady(t, "http://:8080/")); err != nil {
				t.Fatal(err)
			}
		}
		// Its processes are of a session that nobody in it can name.
		if _, err := b.doze(i, nil); err == nil {
			t.Fatal("it is dumped")
		}
		b.runs(i, "http://:8080/")
		if err := syscall.Kill(int(i.Pid), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if e := exitOf(t, i); syscall.WaitStatus(e.Status).ExitStatus() != 7 {
			t.Errorf("exit %+v", e)
		}
	}
	// Nothing of the template outlives its keeper, and clones do.
	i := b.fork("survivor")
	if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
		t.Fatal(err)
	}
	hello, err := b.ListInstances(t.Context(), &api.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(hello.Pid), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	place := linux.Cgroup{Path: b.root + "/template"}
	var left []int
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if left, err = place.ProcsBelow(); err != nil || len(left) == 0 {
			break
		}
	}
	if err != nil || len(left) > 0 {
		t.Errorf("processes %v, %v", left, err)
	}
	if err := bake.Probe(t.Context(), int(i.Pid), mustReady(t, "http://:8080/")); err != nil {
		t.Error(err)
	}
}
