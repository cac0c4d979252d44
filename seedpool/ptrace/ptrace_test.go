package ptrace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// witness answers each line with a count, and has threads that sleep, wait for a lock, poll and compute; one that sees a call end early says so and ends all.
const witness = `
import os, select, sys, threading, time
def sleeper():
    while True:
        t = time.monotonic(); time.sleep(0.2)
        if time.monotonic() - t < 0.19: print("woken early", flush=True); os._exit(3)
def locked(l=threading.Lock()):
    l.acquire(); l.acquire()
def poller():
    r, w = os.pipe(); select.select([r], [], []); print("poll ended", flush=True); os._exit(4)
def computer():
    x = 1.5
    while True:
        for i in range(1000): x = x * 1.0000001
        time.sleep(0.001)
for f in (sleeper, locked, poller, computer): threading.Thread(target=f, daemon=True).start()
n = 0
print("ready", flush=True)
for line in sys.stdin:
    n += 1; print(n, flush=True)
`

type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.Writer
	out *bufio.Reader
}

func start(t *testing.T, name string, args ...string) *process {
	t.Helper()
	cmd := exec.Command(name, args...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return &process{t, cmd, in, bufio.NewReader(out)}
}

func python(t *testing.T) *process {
	t.Helper()
	p := start(t, "/usr/bin/python3", "-c", witness)
	p.expect("ready")
	return p
}

func (p *process) pid() int { return p.cmd.Process.Pid }

func (p *process) expect(want string) {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil || strings.TrimSpace(line) != want {
		p.t.Fatalf("the witness says %q, %v; want %q", line, err, want)
	}
}

func (p *process) say(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *process) state() string {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(p.pid()) + "/stat")
	if err != nil {
		p.t.Fatal(err)
	}
	return string(data[bytes.LastIndexByte(data, ')')+2])
}

func tracer(t *testing.T) *Tracer {
	tracer := NewTracer()
	t.Cleanup(tracer.Close)
	return tracer
}

func timeout(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

func seizeAll(t *testing.T, p *process) []*Tracee {
	t.Helper()
	list, err := tracer(t).SeizeAll(timeout(t), p.pid(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func must[T any](t *testing.T) func(v T, err error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestEveryThreadCallsTheKernelAndGoesOnAsIfNothingHadBeen(t *testing.T) {
	p := python(t)
	for round := 1; round <= 5; round++ {
		list := seizeAll(t, p)
		if len(list) != 5 || list[0].Tid != p.pid() {
			t.Fatalf("%d threads, the first is %d; want 5, the main thread %d first", len(list), list[0].Tid, p.pid())
		}
		for _, tracee := range list {
			before, mask := must[Regs](t)(tracee.Regs()), must[uint64](t)(tracee.SigMask())
			state := must[[]byte](t)(tracee.XState())
			if tid := must[uint64](t)(tracee.Syscall(timeout(t), unix.SYS_GETTID)); int(tid) != tracee.Tid {
				t.Errorf("gettid in thread %d is %d", tracee.Tid, tid)
			}
			if _, err := tracee.Syscall(timeout(t), unix.SYS_CLOSE, 9999); !errors.Is(err, syscall.EBADF) {
				t.Errorf("close of an unused descriptor: %v, want EBADF", err)
			}
			if diff := cmp.Diff(before, must[Regs](t)(tracee.Regs())); diff != "" {
				t.Errorf("registers of thread %d differ: %s", tracee.Tid, diff)
			}
			if after := must[uint64](t)(tracee.SigMask()); after != mask {
				t.Errorf("signal mask %#x, was %#x", after, mask)
			}
			if !bytes.Equal(state, must[[]byte](t)(tracee.XState())) {
				t.Errorf("extended registers of thread %d differ", tracee.Tid)
			}
		}
		if err := DetachAll(list); err != nil {
			t.Fatal(err)
		}
		p.say("go on")
		p.expect(strconv.Itoa(round))
	}
	time.Sleep(300 * time.Millisecond) // the sleeper tells if its call was cut short
	p.say("go on")
	p.expect("6")
}

func TestMemoryMadeInsideIsReadAndWrittenFromOutside(t *testing.T) {
	p := python(t)
	main := seizeAll(t, p)[0]
	readOnly := must[uint64](t)(main.Syscall(timeout(t), unix.SYS_MMAP, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uint64(0), 0))
	memory := NewMemory(p.pid())
	if _, err := memory.WriteAt([]byte("seed"), int64(readOnly)); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 4)
	if _, err := memory.ReadAt(got, int64(readOnly)); err != nil || string(got) != "seed" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := memory.ReadAt(got, 8); err == nil {
		t.Error("the zero page was read")
	}
}

func TestRunEndsAtTheCallItWasGivenAndTheKernelNeverSeesIt(t *testing.T) {
	p := python(t)
	main := seizeAll(t, p)[0]
	code := must[uint64](t)(main.Syscall(timeout(t), unix.SYS_MMAP, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS, ^uint64(0), 0))
	const until = 0x5eed
	// mov eax, SYS_GETPID; syscall; mov rbx, rax; mov eax, until; syscall; hlt
	program := []byte{0xb8, unix.SYS_GETPID, 0, 0, 0, 0x0f, 0x05, 0x48, 0x89, 0xc3, 0xb8, 0xed, 0x5e, 0, 0, 0x0f, 0x05, 0xf4}
	if _, err := NewMemory(p.pid()).WriteAt(program, int64(code)); err != nil {
		t.Fatal(err)
	}
	before := must[Regs](t)(main.Regs())
	r := before
	r.Rip = code
	at := must[Regs](t)(main.Run(timeout(t), r, until))
	if int(at.Rbx) != p.pid() {
		t.Errorf("the code found pid %d, want %d", at.Rbx, p.pid())
	}
	if diff := cmp.Diff(before, must[Regs](t)(main.Regs())); diff != "" {
		t.Errorf("registers differ: %s", diff)
	}
}

func TestStoppedProcessStaysStopped(t *testing.T) {
	p := python(t)
	if err := p.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(5 * time.Second); p.state() != "T" && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	list := seizeAll(t, p)
	for _, tracee := range list {
		for range 3 {
			if tid := must[uint64](t)(tracee.Syscall(timeout(t), unix.SYS_GETTID)); int(tid) != tracee.Tid {
				t.Errorf("gettid in thread %d is %d", tracee.Tid, tid)
			}
		}
	}
	if err := DetachAll(list); err != nil {
		t.Fatal(err)
	}
	p.say("are you there")
	time.Sleep(50 * time.Millisecond)
	if s := p.state(); s != "T" {
		t.Errorf("state %s after detach, want T", s)
	}
	if err := p.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.expect("1")
}

func TestStopThatComesInTheMiddleIsSwallowed(t *testing.T) {
	p := python(t)
	list := seizeAll(t, p)
	if err := p.cmd.Process.Signal(unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if pid := must[uint64](t)(list[0].Syscall(timeout(t), unix.SYS_GETPID)); int(pid) != p.pid() {
			t.Errorf("getpid is %d", pid)
		}
	}
	if err := DetachAll(list); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	p.say("go on")
	p.expect("1")
}

func TestRegistersAndMaskAreWrittenBack(t *testing.T) {
	p := python(t)
	main := seizeAll(t, p)[0]
	saved, mask := must[Regs](t)(main.Regs()), must[uint64](t)(main.SigMask())
	changed := saved
	changed.R12 ^= 0xfeed
	state := must[[]byte](t)(main.XState())
	xmm := append([]byte(nil), state...)
	binary.LittleEndian.PutUint64(xmm[160:], 0x0123456789abcdef)                         // xmm0
	binary.LittleEndian.PutUint64(xmm[512:], binary.LittleEndian.Uint64(xmm[512:])|0b10) // SSE is in use
	if err := errors.Join(main.SetRegs(changed), main.SetSigMask(mask|1), main.SetXState(xmm)); err != nil {
		t.Fatal(err)
	}
	if got := must[Regs](t)(main.Regs()); got.R12 != changed.R12 {
		t.Errorf("r12 is %#x, want %#x", got.R12, changed.R12)
	}
	if got := must[uint64](t)(main.SigMask()); got != mask|1 {
		t.Errorf("mask is %#x, want %#x", got, mask|1)
	}
	if got := must[[]byte](t)(main.XState()); binary.LittleEndian.Uint64(got[160:]) != 0x0123456789abcdef {
		t.Errorf("xmm0 is %x", got[160:176])
	}
	if err := errors.Join(main.SetRegs(saved), main.SetSigMask(mask), main.SetXState(state)); err != nil {
		t.Fatal(err)
	}
	if r := must[RseqConfig](t)(main.Rseq()); r.Pointer == 0 || r.Size == 0 {
		t.Errorf("glibc registers restartable sequences, seen %+v", r)
	}
}

func TestTraceeThatDiesIsPoisoned(t *testing.T) {
	p := python(t)
	main := seizeAll(t, p)[0]
	if _, err := main.Syscall(timeout(t), unix.SYS_EXIT_GROUP, 7); !errors.Is(err, ErrEnded) {
		t.Fatalf("injected exit_group: %v, want ErrEnded", err)
	}
	if _, err := main.Regs(); !errors.Is(err, ErrEnded) {
		t.Errorf("registers of a poisoned thread: %v, want ErrEnded", err)
	}
}

func TestFaultPoisonsAndTheContextEndsAWait(t *testing.T) {
	p := python(t)
	main := seizeAll(t, p)[0]
	r := must[Regs](t)(main.Regs())
	r.Rip = 8
	if _, err := main.Run(timeout(t), r, 1); err == nil || !strings.Contains(err.Error(), "segmentation fault") {
		t.Errorf("running at address 8: %v, want a segmentation fault", err)
	}
	if _, err := main.Syscall(timeout(t), unix.SYS_GETPID); err == nil {
		t.Error("a poisoned thread takes calls")
	}

	q := python(t)
	other := seizeAll(t, q)[0]
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := other.Syscall(ctx, unix.SYS_PAUSE); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("injected pause: %v, want a deadline", err)
	}
}

func TestClosedTracerLetsGoOfProcessesAndKillsItsOwnCopies(t *testing.T) {
	for _, exitKill := range []bool{false, true} {
		p := python(t)
		tracer := NewTracer()
		if _, err := tracer.SeizeAll(timeout(t), p.pid(), Options{ExitKill: exitKill}); err != nil {
			t.Fatal(err)
		}
		tracer.Close()
		if _, err := tracer.Seize(p.pid(), p.pid(), Options{}); !errors.Is(err, ErrClosed) {
			t.Errorf("seize by a closed tracer: %v", err)
		}
		if exitKill {
			if err := p.cmd.Wait(); err == nil {
				t.Error("the copy ended well")
			}
			continue
		}
		p.say("go on")
		p.expect("1")
	}
}

func TestXSaveSizeIsWithinWhatTheKernelShows(t *testing.T) {
	state := must[[]byte](t)(seizeAll(t, python(t))[0].XState())
	components := binary.LittleEndian.Uint64(state[464:]) // where the kernel puts XCR0
	if size := XSaveSize(components); int(size) != len(state) {
		t.Errorf("%d bytes for components %#x, the kernel shows %d", size, components, len(state))
	}
	if size := XSaveSize(3); size != XSaveFixed {
		t.Errorf("%d bytes for x87 and SSE", size)
	}
}

func FuzzVDSORange(f *testing.F) {
	f.Add("7ffd0000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]\n")
	f.Add("z [vdso]")
	f.Fuzz(func(t *testing.T, maps string) {
		if start, size, err := vdsoRange(maps); err == nil && start+size <= start {
			t.Errorf("range %#x+%#x of %q", start, size, maps)
		}
	})
}
