package fork

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"flag"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file; run the test with -update after a change that was meant, and read the difference.
func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(strings.Split(string(want), "\n"), strings.Split(got, "\n")); diff != "" {
		t.Errorf("%s: %s", file, diff)
	}
}

func sample() *Process {
	thread := func(tid int, comm string) Thread {
		state := make([]byte, 11008)
		binary.LittleEndian.PutUint64(state[xstateSoftware:], 7|tileComponents)
		return Thread{
			Tid: tid, Comm: comm, Regs: ptrace.Regs{Rip: 0x1002, Rsp: 0x2000, Rax: ^uint64(511), Orig_rax: sysFutex, Fs_base: 0x3000, Cs: 0x33, Ss: 0x2b},
			XState: state, AltStack: make([]byte, sizeofAltStack), RobustHead: 0x3100, RobustLen: 24,
			Rseq: ptrace.RseqConfig{Pointer: 0x3200, Size: 32, Signature: 0x53053053}, ClearTid: 0x3300 + uint64(tid),
		}
	}
	return &Process{
		Cwd:         "/srv",
		Threads:     []Thread{thread(1, "main"), thread(7, "worker")},
		ChildAction: make([]byte, sizeofSigaction),
		Intervals:   [3]Interval{{Every: time.Second, Value: 1500 * time.Millisecond}},
		Timers:      []PosixTimer{{ID: 1, Clock: 1, Signal: 34, Notify: sigevThreadID, Thread: 1, Value: 9, Timer: Interval{Value: time.Second}}},
		VMAs: []VMA{
			{Start: 0x10000, End: 0x20000, Perms: "rw-p", Flags: []string{"rd", "wr", "dc"}},
			{Start: 0x20000, End: 0x30000, Perms: "rw-s", Path: "/dev/zero (deleted)", Inode: 5, Flags: []string{"rd", "wr", "sh"}, Data: []linux.Range{{From: 0x1000, To: 0x3000}, {From: 0xf000, To: 0x10000}}},
			{Start: 0x30000, End: 0x31000, Perms: "r--s", Path: "/dev/zero (deleted)", Inode: 5, Offset: 0x10000, Flags: []string{"rd", "sh", "lo"}},
			{Start: 0x40000, End: 0x41000, Perms: "r--s", Path: "/SYSV00000007 (deleted)", Inode: 3, Flags: []string{"rd", "sh"}},
		},
		Files: []File{
			{FD: 0, Kind: KindStdio, Path: "pipe:[1]", Inode: 1},
			{FD: 1, Kind: KindRegular, Path: "/var/log/x", Flags: 0o102101, Pos: 77, Same: 1},
			{FD: 2, Kind: KindRegular, Path: "/var/log/x", Flags: 0o102101, Pos: 77, Same: 1},
			{FD: 3, Kind: KindEpoll, Flags: openCloexec, Same: 3, Watches: []Watch{{FD: 4, Events: 0x19, Data: 9}}},
			{FD: 4, Kind: KindSocket, Flags: openCloexec | openNonblock, Same: 4, Socket: &linux.Socket{
				Family: afInet, Type: sockStream, Protocol: 6, Listening: true, Backlog: 128, Address: make([]byte, 16), Options: []linux.SocketOption{{Level: 1, Name: 2, Value: []byte{1, 0, 0, 0}}},
			}},
			{FD: 5, Kind: KindPipe, Path: "pipe:[2]", Inode: 2, Size: 4096, Same: 5, Content: []byte("x")},
			{FD: 6, Kind: KindPipe, Path: "pipe:[2]", Inode: 2, Size: 4096, Same: 6, Flags: 1 | openNonblock},
			{FD: 7, Kind: KindEvent, Same: 7, Count: 3, Semaphore: true},
			{FD: 8, Kind: KindTimer, Same: 8, Clock: 1, Timer: Interval{Value: time.Second}},
			{FD: 9, Kind: KindSignal, Same: 9, Mask: 0x800},
			{FD: 10, Kind: KindSocket, Flags: openNonblock, Same: 10, Inode: 20, Socket: &linux.Socket{Family: afUnix, Type: sockStream, Connected: true}, Link: linux.UnixLink{Peer: 21, Shut: 2}},
			{FD: 11, Kind: KindSocket, Same: 11, Inode: 21, Socket: &linux.Socket{Family: afUnix, Type: sockStream, Connected: true}, Link: linux.UnixLink{Peer: 20, Shut: 1}, Content: []byte("y")},
			{FD: 16, Kind: KindNotify, Same: 16, Flags: openNonblock, Notify: []linux.Watch{{WD: 2, Mask: 0x84000fff, Path: "/srv"}}},
			{FD: 12, Kind: KindDir, Same: 12, Path: "/", Flags: 0o200000},
			{FD: 14, Kind: KindSocket, Same: 14, Socket: &linux.Socket{Family: afInet, Type: sockDatagram, Protocol: protocolUDP, Connected: true, Address: []byte{2, 0, 1, 2}, Remote: []byte{2, 0, 3, 4}}},
			{FD: 15, Kind: KindSocket, Same: 15, Socket: &linux.Socket{Family: afNetlink, Type: 3, Address: []byte{16, 0, 0, 0, 7, 0, 0, 0, 1, 0, 0, 0}}},
			{
				FD: 13, Kind: KindSocket, Same: 13, Inode: 22, Path: "/run/s", Node: &Node{Mode: 0o600, UID: 7}, Link: linux.UnixLink{Backlog: 5},
				Socket: &linux.Socket{Family: afUnix, Type: sockStream, Listening: true, Address: []byte("\x01\x00/run/s\x00")},
			},
		},
	}
}

func samplePlan(t *testing.T) *Program {
	t.Helper()
	p, err := Plan(sample(), Layout{Base: 0x7f0000000000, Control: 20, Peer: 21, XState: xsave{7, 832}}, &Origin{Effective: 0xa80425fb, Permitted: 0xa80425fb, Filter: make([]byte, 16)})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPlanIsAsItWas(t *testing.T) {
	p := samplePlan(t)
	golden(t, "testdata/plan.golden", p.String())
	_, request, err := p.request(1, Sandbox{
		Hostname: "x", Root: true, Proc: true, OwnNet: true, Cgroup: true,
		Mounts: []Mount{{Source: "tmpfs", Target: "/tmp", Type: "tmpfs", Flags: mountNoSuid, Data: "size=1m"}, {Source: "mqueue", Target: "/dev/mqueue", Type: "mqueue"}},
		clocks: &linux.Clocks{Monotonic: -time.Second, Boottime: 1},
	})
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "testdata/request.golden", request.String())
}

func TestPlanOfTheSameProcessHasTheSameBytes(t *testing.T) {
	if diff := cmp.Diff(samplePlan(t).Data, samplePlan(t).Data); diff != "" {
		t.Error(diff)
	}
}

func TestPlanRefusesWhatItHasNoOpsFor(t *testing.T) {
	for name, change := range map[string]func(*Process){
		"unknown kind":         func(p *Process) { p.Files[1].Kind = "ring" },
		"high stream":          func(p *Process) { p.Files[0].FD, p.Files[0].Same = 20, 20 },
		"large counter":        func(p *Process) { p.Files[7].Count = 1 << 40 },
		"large shared memory":  func(p *Process) { p.VMAs[1].End += 1 << 40 },
		"half a connection":    func(p *Process) { p.Files[11].Link.Peer = 99 },
		"more than the region": func(p *Process) { p.Files[5].Content = make([]byte, regionSize) },
	} {
		process := sample()
		change(process)
		if _, err := Plan(process, Layout{Base: 0x7f0000000000, Control: 20, Peer: 21, XState: xsave{7, 832}}, &Origin{Effective: 0xa80425fb, Permitted: 0xa80425fb, Filter: make([]byte, 16)}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, _, err := samplePlan(t).request(1, Sandbox{Hostname: strings.Repeat("x", requestSize)}); err == nil {
		t.Error("long request: no error")
	}
}

func TestFrameHoldsTheThread(t *testing.T) {
	thread := sample().Threads[1]
	thread.SigMask = 0xabc
	binary.LittleEndian.PutUint64(thread.XState[usedComponents:], 7|tileComponents)
	thread.XState[600] = 0x5a
	x := signalFrame(thread)
	if x.components != 7 || x.size < ptrace.XSaveFixed {
		t.Fatalf("%+v", x)
	}
	p := newProgram(0x10000)
	p.bytes([]byte{1}, 1)
	at := p.frame(thread, x) - returnAddress
	if at%frameAlign != 0 {
		t.Errorf("frame at %#x", at)
	}
	b := p.data[at-p.base:]
	word := func(offset int) uint64 { return binary.LittleEndian.Uint64(b[offset:]) }
	if rip, mask := word(frameRegs+16*8), word(frameMask); rip != 0x1000 || mask != 0xabc {
		t.Errorf("rip %#x, mask %#x", rip, mask)
	}
	area := word(frameXState)
	if area%frameAlign != 0 {
		t.Errorf("extended registers at %#x", area)
	}
	b = p.data[area-p.base:]
	if word(usedComponents) != 7 || b[600] != 0x5a || uint32(word(xstateSoftware)) != magicFirst || uint32(binary.LittleEndian.Uint32(b[x.size:])) != magicLast {
		t.Error("extended registers are not as the kernel wants them")
	}
}

func TestInterruptedCallsBeginAgain(t *testing.T) {
	code := func(n int64) uint64 { return uint64(n) }
	for _, c := range []struct {
		name         string
		nr, rax      uint64
		wantRip, ret uint64
	}{
		{"not in a call", noCallNumber, code(restartSys), 0x100, code(restartSys)},
		{"call that has its result", sysRead, 5, 0x100, 5},
		{"read", sysRead, code(restartSys), 0xfe, sysRead},
		{"ppoll", 271, code(restartNoHand), 0xfe, 271},
		{"sleep", 230, code(restartBlock), 0xfe, 230},
		{"futex with a time", sysFutex, code(restartBlock), 0xfe, sysFutex},
		{"another with a restart block", 999, code(restartBlock), 0x100, code(interrupted)},
	} {
		r := restarted(ptrace.Regs{Rip: 0x100, Orig_rax: c.nr, Rax: c.rax})
		if r.Rip != c.wantRip || r.Rax != c.ret {
			t.Errorf("%s: rip %#x, rax %#x; want %#x, %#x", c.name, r.Rip, r.Rax, c.wantRip, c.ret)
		}
	}
}

const noCallNumber = ^uint64(0)

func TestStubIsAsItWas(t *testing.T) {
	sum := sha256.Sum256(stub)
	const want = "4ae92bf4ee089d20"
	if got := hex.EncodeToString(sum[:8]); got != want || len(stub) != 0x10f {
		t.Errorf("%d bytes with checksum %s, want %s: the listing in stub_amd64.go is what every clone runs", len(stub), got, want)
	}
}
