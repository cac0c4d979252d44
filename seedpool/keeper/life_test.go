package keeper

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// sleeping is an app that only waits.
var sleeping = []string{"sh", "-c", "touch /tmp/up; sleep 1000"}

func sleepingBed(t *testing.T) *bed { return newBed(t, "tiny-demo", "file=/tmp/up", sleeping...) }

// pid is the keeper's.
func (b *bed) pid() int {
	b.t.Helper()
	list, err := b.ListInstances(b.t.Context(), &api.Empty{})
	if err != nil {
		b.t.Fatal(err)
	}
	return int(list.Pid)
}

// killKeeper ends the keeper as a crash would and returns when it is gone.
func (b *bed) killKeeper() {
	b.t.Helper()
	endWithin(b.t, b.pid(), func(p *linux.Pidfd) error { return p.Signal(syscall.SIGKILL) })
}

// endWithin does what should end a process, and waits for that.
func endWithin(t *testing.T, pid int, do func(p *linux.Pidfd) error) {
	t.Helper()
	p, err := linux.OpenPidfd(pid)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := do(p); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Fatalf("process %d goes on: %v", pid, err)
	}
}

func TestAnotherKeeperTakesThePlaceOfOneThatWasKilled(t *testing.T) {
	b := sleepingBed(t)
	idle, running := b.make("idle"), b.make("running")
	if err := (linux.Cgroup{Path: running.Cgroup}).Thaw(); err != nil {
		t.Fatal(err)
	}
	p, err := linux.OpenPidfd(int(running.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	b.killKeeper()
	b.spawn()
	if list, err := b.ListInstances(t.Context(), &api.Empty{}); err != nil || len(list.Instances) != 0 {
		t.Errorf("the new keeper has %v, %v", list, err)
	}
	// Nothing ran because of it, nothing that ran has ended.
	if frozen, err := (linux.Cgroup{Path: idle.Cgroup}).Frozen(); err != nil || !frozen {
		t.Errorf("idle instance frozen: %v, %v", frozen, err)
	}
	if !linux.Alive(int(running.Pid), running.StartTime) {
		t.Error("the running instance has ended with its keeper")
	}
	// Its exit status is the kernel's to tell now.
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		status, ok, err := p.ExitStatus()
		return err == nil && ok && status.Signal() == syscall.SIGKILL
	})
	b.make("after")
}

func TestKeeperThatIsKilledWhileItMakesLeavesOnlyACgroup(t *testing.T) {
	b := sleepingBed(t)
	for after := time.Duration(0); after < 60*time.Millisecond; after += 3 * time.Millisecond {
		r := b.request("cut-" + after.String())
		done := make(chan error, 1)
		go func() {
			_, err := b.Make(t.Context(), r)
			done <- err
		}()
		time.Sleep(after)
		b.killKeeper()
		err := <-done
		t.Logf("killed after %s: %v", after, err)
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), b.dir) {
			t.Errorf("killed after %s: a mount is left, %v", after, err)
		}
		// What the next owner of the cgroup does.
		c := linux.Cgroup{Path: r.Cgroup}
		if err := c.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := c.Remove(); err != nil {
			t.Errorf("killed after %s: %v", after, err)
		}
		b.spawn()
	}
	b.make("whole")
}

func TestInstanceThatIsKilledWhileItIsMadeDoesNotComeToBe(t *testing.T) {
	b := sleepingBed(t)
	for n := range 8 {
		id := fmt.Sprintf("unwanted-%d", n)
		r := b.request(id)
		done := make(chan error, 1)
		go func() {
			_, err := b.Make(t.Context(), r)
			done <- err
		}()
		time.Sleep(time.Duration(n) * 3 * time.Millisecond)
		if _, err := b.Kill(t.Context(), &api.InstanceRef{Id: id}); err != nil {
			t.Fatal(err)
		}
		if n > 0 { // else the order to kill may have been the first
			if procs, err := (linux.Cgroup{Path: r.Cgroup}).Procs(); err != nil || len(procs) > 0 {
				t.Errorf("killed after %d ms: %v, %v", n*3, procs, err)
			}
		}
		if err := <-done; err != nil {
			t.Logf("killed after %d ms: %v", n*3, err)
		}
		if _, err := b.Kill(t.Context(), &api.InstanceRef{Id: id}); err != nil {
			t.Fatal(err)
		}
	}
	if list, err := b.ListInstances(t.Context(), &api.Empty{}); err != nil || len(list.Instances) > 0 {
		t.Errorf("%v, %v", list, err)
	}
}

func TestInstanceThatEndsWhileItIsKilledIsGoneAllTheSame(t *testing.T) {
	b := sleepingBed(t)
	for n := range 20 {
		i := b.make(fmt.Sprintf("ending-%d", n))
		go func() {
			time.Sleep(time.Duration(n) * 50 * time.Microsecond)
			_ = syscall.Kill(int(i.Pid), syscall.SIGKILL)
		}()
		if _, err := b.Kill(t.Context(), &api.InstanceRef{Id: i.Id}); err != nil {
			t.Error(err)
		}
	}
}

func TestKeeperThatCannotBeFoundEndsWithItsLastInstance(t *testing.T) {
	b := sleepingBed(t)
	i, pid := b.make("last"), b.pid()
	if err := os.Remove(b.config.Socket); err != nil {
		t.Fatal(err)
	}
	time.Sleep(lookAgain + time.Second)
	start, err := linux.StartTime(pid)
	if err != nil || !linux.Alive(pid, start) {
		t.Fatalf("it has ended before its instance, %v", err)
	}
	endWithin(t, pid, func(*linux.Pidfd) error { return syscall.Kill(int(i.Pid), syscall.SIGKILL) })
	if e := exitOf(t, i); syscall.WaitStatus(e.Status).Signal() != syscall.SIGKILL {
		t.Errorf("status %#x", e.Status)
	}
}

func TestKeeperLeavesNoMountForOthersToSee(t *testing.T) {
	b := sleepingBed(t)
	b.make("one")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), b.dir) {
		t.Errorf("a mount is seen, %v", err)
	}
	mounts, err = os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", b.pid()))
	if err != nil || strings.Contains(string(mounts), filepath.Join(b.dir, "one")) {
		t.Errorf("the keeper keeps a mount, %v", err)
	}
}

func TestInstanceWakesInTheNetworkNamespaceThatIsAskedFor(t *testing.T) {
	b := sleepingBed(t)
	ns, err := linux.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	// As `ip netns add` does, and later than the keeper's start.
	path := filepath.Join(b.dir, "netns")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := linux.Bind(fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), path, false, false); err != nil {
		t.Fatal(err)
	}
	defer linux.Unmount(path)
	r := b.request("one")
	r.Netns = path
	resp, err := b.Make(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ns.Stat()
	if err != nil {
		t.Fatal(err)
	}
	have, err := os.Stat(fmt.Sprintf("/proc/%d/ns/net", resp.Instance.Pid))
	if err != nil || !os.SameFile(want, have) {
		t.Errorf("another network namespace, %v", err)
	}
}

func TestAppOfAnotherUserMayOpenItsStreamsAgain(t *testing.T) {
	b := prepareBed(t, "tiny-demo")
	b.bake(b.img.Spec(t, "sh", "-c", "touch /tmp/up; while :; do echo again >/proc/self/fd/1 && sleep 0.05; done"), "file=/tmp/up", func(spec *specs.Spec) {
		// runc cannot set another user's limits without CAP_SYS_RESOURCE.
		spec.Process.User, spec.Process.Rlimits = specs.User{UID: 1000, GID: 1000}, nil
	})
	b.spawn()
	i := b.make("one")
	out, err := linux.ReadFifo(i.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, err := out.Read(buf); err != nil || !strings.Contains(string(buf[:n]), "again") {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestExitStatusIsTheSameFromKeeperAndKernel(t *testing.T) {
	b := newBed(t, "tiny-demo", "file=/tmp/up", "sh", "-c", "trap 'exit 42' TERM; touch /tmp/up; while :; do sleep 0.02; done")
	for sig, want := range map[syscall.Signal]syscall.WaitStatus{syscall.SIGTERM: 42 << 8, syscall.SIGKILL: syscall.WaitStatus(syscall.SIGKILL)} {
		i := b.make("signal-" + strconv.Itoa(int(sig)))
		p, err := linux.OpenPidfd(int(i.Pid))
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
			t.Fatal(err)
		}
		if err := p.Signal(sig); err != nil {
			t.Fatal(err)
		}
		if e := exitOf(t, i); syscall.WaitStatus(e.Status) != want || time.Since(e.At) > time.Minute {
			t.Errorf("%s: the keeper says %+v", sig, e)
		}
		if status, ok, err := p.ExitStatus(); err != nil || !ok || status != want {
			t.Errorf("%s: the kernel says %#x %v, %v", sig, status, ok, err)
		}
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not come to pass")
		}
	}
}
