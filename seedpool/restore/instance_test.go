package restore

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// counters counts in four threads, each in its own word of a page, and prints the page's address.
var counters = []string{"python3", "-c", `
import ctypes, mmap, threading
page = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
words = [ctypes.c_uint64.from_buffer(page, 8 * i) for i in range(4)]
def count(word):
    while True:
        word.value += 1
for word in words:
    threading.Thread(target=count, args=(word,)).start()
print(hex(ctypes.addressof(words[0])), flush=True)
`}

// stopped is all that shows whether a process has run: its counters, and where each of its threads is in user space.
type stopped struct {
	Counters []uint64
	Threads  []string
}

func look(t *testing.T, pid int, address uint64) (s stopped) {
	t.Helper()
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer mem.Close()
	words := make([]byte, 32)
	if _, err := mem.ReadAt(words, int64(address)); err != nil {
		t.Fatal(err)
	}
	for ; len(words) > 0; words = words[8:] {
		s.Counters = append(s.Counters, binary.LittleEndian.Uint64(words))
	}
	tids, err := linux.Threads(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, tid := range tids {
		// The call's number, its arguments, the stack pointer and the instruction pointer; a thread in no call has the last two.
		call, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/syscall", pid, tid))
		if err != nil {
			t.Fatal(err)
		}
		fields := strings.Fields(string(call))
		s.Threads = append(s.Threads, strings.Join(fields[max(0, len(fields)-2):], " "))
	}
	return s
}

// inImage is where each thread was when the image was made.
func inImage(t *testing.T, images string) (threads []string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(images, "core-*.img"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		var core criucore.CoreEntry
		if err := one(name, &core); err != nil {
			t.Fatal(err)
		}
		regs := core.GetThreadInfo().GetGpregs()
		threads = append(threads, fmt.Sprintf("%#x %#x", regs.GetSp(), regs.GetIp()))
	}
	return threads
}

func TestInstanceHasNotRunAnInstructionBeforeItIsThawed(t *testing.T) {
	b := newBed(t, "python-demo")
	c := b.launch(b.img.Spec(t, counters...))
	var address uint64
	if _, err := fmt.Fscanf(c.stdout, "0x%x\n", &address); err != nil {
		t.Fatal(err)
	}
	s := b.dump(c)
	first := b.restore(s)
	if frozen, err := first.cgroup.Frozen(); err != nil || !frozen {
		t.Fatalf("frozen: %v, %v", frozen, err)
	}
	at := look(t, first.pid, address)
	want := inImage(t, s.images)
	slices.Sort(want)
	have := slices.Sorted(slices.Values(at.Threads))
	if diff := cmp.Diff(want, have); diff != "" {
		t.Errorf("threads are not where they were in the image: %s", diff)
	}
	cpu, err := first.cgroup.CPU()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if diff := cmp.Diff(at, look(t, first.pid, address)); diff != "" {
		t.Errorf("it runs while it is frozen: %s", diff)
	}
	if now, err := first.cgroup.CPU(); err != nil || now != cpu {
		t.Errorf("CPU time %v became %v, %v", cpu, now, err)
	}
	second := b.restore(s)
	if diff := cmp.Diff(at.Counters, look(t, second.pid, address).Counters); diff != "" {
		t.Errorf("two instances of one image differ: %s", diff)
	}
	if err := first.cgroup.Thaw(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); slices.Equal(look(t, first.pid, address).Counters, at.Counters); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not run when it is thawed")
		}
	}
}

func TestManyInstancesOfOneImageStandOnTheirOwn(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t)))
	for n := range 10 {
		i := b.restore(s)
		if err := i.cgroup.Thaw(); err != nil {
			t.Fatal(err)
		}
		if body, err := i.get("http://127.0.0.1:8080/pid"); err != nil || body != "1" {
			t.Fatalf("answer %q, %v", body, err)
		}
		// Half of them end by themselves, half are killed.
		var want syscall.WaitStatus
		if n%2 == 0 {
			_, err := i.get("http://127.0.0.1:8080/exit?code=7")
			if want = 7 << 8; err == nil {
				t.Error("it answers though it should have ended")
			}
		} else if want = syscall.WaitStatus(syscall.SIGKILL); syscall.Kill(i.pid, syscall.SIGKILL) != nil {
			t.Error("it is gone")
		}
		p, err := linux.OpenPidfd(i.pid)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		if status, err := i.wait(); err != nil || status != want {
			t.Errorf("wait status %#x, want %#x, %v", status, want, err)
		}
		if status, ok, err := p.ExitStatus(); err != nil || !ok || status != want {
			t.Errorf("status by pidfd %#x %v, want %#x, %v", status, ok, want, err)
		}
	}
}

func TestTwoRestoresAtOnceDoNotMeet(t *testing.T) {
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, shell...)))
	type made struct {
		i   *instance
		err error
	}
	// Directories and cgroups are the bed's, which is not made for two: prepared one after the other, restored together.
	prepared := []*preparation{b.prepare(s), b.prepare(s)}
	done := make(chan made)
	for range 5 {
		for _, p := range prepared {
			go func() {
				i, err := p.restore(t.Context(), b.criu)
				done <- made{i, err}
			}()
		}
		for range prepared {
			m := <-done
			if m.err != nil {
				t.Fatal(report(m.err))
			}
			if err := m.i.cgroup.Kill(); err != nil {
				t.Fatal(err)
			}
			if status, err := m.i.wait(); err != nil || status.Signal() != syscall.SIGKILL {
				t.Errorf("status %#x, %v", status, err)
			}
		}
		prepared = []*preparation{b.prepare(s), b.prepare(s)}
	}
	for _, p := range prepared {
		if err := p.staged.Unstage(); err != nil {
			t.Error(err)
		}
	}
}

func TestInstanceMayDoWhatTheSpecAllowsAndNoMore(t *testing.T) {
	for name, change := range map[string]func(spec *specs.Spec){
		"as ctr run makes it": func(*specs.Spec) {},
		"user, groups, few capabilities, seccomp": func(spec *specs.Spec) {
			spec.Process.User, spec.Process.Rlimits = specs.User{UID: 1000, GID: 1001, AdditionalGids: []uint32{1001, 4}}, nil
			caps := []string{"CAP_CHOWN", "CAP_KILL"}
			spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Inheritable: caps, Permitted: caps, Effective: caps, Ambient: caps}
			spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
		},
		"new privileges": func(spec *specs.Spec) { spec.Process.NoNewPrivileges = false },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, "tiny-demo")
			spec := b.img.Spec(t, shell...)
			change(spec)
			c := b.boot(spec)
			want := credsOf(t, c.pid)
			i := b.restore(b.dump(c))
			if diff := cmp.Diff(want, credsOf(t, i.pid)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func credsOf(t *testing.T, pid int) linux.Creds {
	t.Helper()
	creds, err := linux.ReadCreds(pid, pid)
	if err != nil {
		t.Fatal(err)
	}
	return creds
}

func TestFilesOfTmpfsMountsArePartOfTheInstance(t *testing.T) {
	b := newBed(t, "tiny-demo")
	script := `mkdir -m 750 /run/app && echo one >/run/app/pid && chown 33:44 /run/app/pid && ln -s pid /run/app/link && mkfifo -m 622 /dev/shm/fifo &&
		printf x >/dev/shm/big && exec 9</run/app/pid && echo up && while :; do sleep 0.02; done`
	s := b.dump(b.boot(b.img.Spec(t, "sh", "-c", script)))
	for range 2 {
		i := b.restore(s)
		list := func(path string) string {
			info, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s", i.pid, path))
			if err != nil {
				t.Fatal(err)
			}
			st := info.Sys().(*syscall.Stat_t)
			return fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		}
		for path, want := range map[string]string{
			"/run/app": "drwxr-x--- 0:0", "/run/app/pid": "-rw-r--r-- 33:44", "/run/app/link": "Lrwxrwxrwx 0:0", "/dev/shm/fifo": "prw--w--w- 0:0", "/dev/shm/big": "-rw-r--r-- 0:0",
		} {
			if have := list(path); have != want {
				t.Errorf("%s is %s, want %s", path, have, want)
			}
		}
		// What one instance writes no other one sees.
		if err := os.WriteFile(fmt.Sprintf("/proc/%d/root/run/app/pid", i.pid), []byte("changed"), 0); err != nil {
			t.Error(err)
		}
	}
}

func TestContainerWithAMountOfItsOwnIsNotDumped(t *testing.T) {
	b := newBed(t, "tiny-demo")
	c := b.boot(b.img.Spec(t, shell...))
	if err := linux.BindInto(c.pid, []linux.BindMount{{Source: b.dir, Target: "/mnt/late", Options: []string{"bind"}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.tryDump(c); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), "/mnt/late") {
		t.Error(err)
	}
}

func TestContainerThatSharesAPipeWithOthersIsNotDumped(t *testing.T) {
	b := newBed(t, "tiny-demo")
	// The first pipe is inside alone, and so is a second number for a standard stream.
	c := b.boot(b.img.Spec(t, "sh", "-c", "exec 5<&0; echo up; sleep 1000 | cat"))
	var children []int
	waitFor(t, func() (ready bool) {
		// A child that is still a shell may not have its end of the pipe yet.
		children, _ = linux.Children(c.pid)
		return len(children) == 2 && !slices.ContainsFunc(children, func(pid int) bool {
			name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return err != nil || string(name) == "sh\n"
		})
	})
	held, err := os.OpenFile(fmt.Sprintf("/proc/%d/fd/1", slices.Min(children)), os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.tryDump(c); !errors.Is(err, ErrForeign) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
		t.Errorf("a pipe that we hold: %v", err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.tryDump(c); err != nil {
		t.Error(report(err))
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

func TestInstanceReadsAndWritesItsOwnStreams(t *testing.T) {
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, "sh", "-c", "echo up; while read line; do echo got $line; done")))
	for n := range 2 {
		p := b.prepare(s)
		i, err := p.restore(t.Context(), b.criu)
		if err != nil {
			t.Fatal(report(err))
		}
		if err := i.cgroup.Thaw(); err != nil {
			t.Fatal(err)
		}
		if _, err := fmt.Fprintf(p.stdin[1], "%d\n", n); err != nil {
			t.Fatal(err)
		}
		_ = p.stdin[1].Close()
		out, err := io.ReadAll(i.stdout)
		if want := fmt.Sprintf("got %d\n", n); err != nil || string(out) != want {
			t.Errorf("read %q, want %q, %v", out, want, err)
		}
		if status, err := i.wait(); err != nil || status != 0 {
			t.Errorf("status %#x, %v", status, err)
		}
	}
}

func TestInstanceWithACgroupNamespaceSeesItselfAtItsRoot(t *testing.T) {
	b := newBed(t, "tiny-demo")
	spec := b.img.Spec(t, shell...)
	spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	i := b.restore(b.dump(b.boot(spec)))
	ns, err := linux.NSFile(i.pid, "cgroup")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var seen []byte
	err = linux.Enter([]linux.NS{{Type: syscall.CLONE_NEWCGROUP, File: ns}}, func() (err error) {
		seen, err = os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", i.pid))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(seen) {
		if !bytes.HasSuffix(line, []byte(":/\n")) {
			t.Errorf("sees itself at %s", line)
		}
	}
}

func TestMemoryOfAnInstanceIsChargedToItsCgroup(t *testing.T) {
	b := newBed(t, "python-demo")
	i := b.restore(b.dump(b.boot(b.img.Spec(t))))
	roots, err := linux.Hierarchies()
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range roots {
		for _, file := range []string{"memory.usage_in_bytes", "memory.current"} {
			data, err := os.ReadFile(filepath.Join(root, i.cgroup.Path, file))
			if err != nil {
				continue
			}
			var used uint64
			if _, err := fmt.Sscan(string(data), &used); err != nil || used < 40<<20 {
				t.Errorf("%s of the cgroup: %s bytes, %v", file, data, err)
			}
			return
		}
	}
	t.Fatal("no hierarchy has the memory controller")
}

func TestEverythingOfAnInstanceEndsWithItsInit(t *testing.T) {
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, "sh", "-c", "for i in 1 2 3; do (sleep 1000; :) & done; sleep 0.2; echo up; wait")))
	i := b.restore(s)
	if procs, err := i.cgroup.Procs(); err != nil || len(procs) != 7 {
		t.Errorf("%d processes, want 7, %v", len(procs), err)
	}
	// Frozen as it is.
	if err := syscall.Kill(i.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if _, err := i.wait(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := i.cgroup.WaitEmpty(ctx); err != nil {
		t.Error(err)
	}
}
