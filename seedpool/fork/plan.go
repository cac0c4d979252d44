package fork

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
)

// Layout says where sprout's own region lies in the template: the stub first, then data.
type Layout struct {
	Base uint64
	// Control is the descriptor that the zygote listens on, Peer the controller's end, which the zygote closes.
	Control, Peer int
	// XState of signal frames.
	XState xsave
}

// Sizes of the region in bytes. Pages that are never touched cost nothing.
const (
	codeSize    = 4 << 10
	requestSize = 64 << 10
	regionSize  = 4 << 20
)

// markCall is the number of no call: it tells the tracer that the fork list has come to its end.
const markCall = 0x5eed

// Descriptors that come with a request are moved to the numbers Program.FDBase + these.
const (
	fdGate    = iota // one byte lets the clone go; its end makes the clone end
	fdStreams        // standard input, output, error
	_
	_
	fdCgroup
	fdNet
	fdRoot
	fdIPC
	fdUTS
	fdInit    // of the children of a tree: the clone's first process
	fdOffsets // of the clocks of the zygote's children
	fdCount
)

// Messages to the controller: kind, two words, number of the request.
const (
	kindBorn    = 1 + iota // first act of a clone
	kindReady              // all is as it was in the template, the clone waits at the gate; times follow
	kindFailed             // an op of a clone or the zygote failed: its address and result
	kindCloned             // the zygote's clone3: its result
	kindHello              // the zygote is up
	messageSize = 32
)

// Phases of a clone, in the order of the times of kindReady.
var phases = []string{"sandbox", "files", "memory", "threads"}

// header is what the stub has in r15: the descriptor to report to, the report, and the number of the request.
const (
	headerFD, headerReport, headerOp, headerResult, headerRequest = 0, 8, 16, 24, 32
	headerSize                                                    = 40
)

// Program is the memory of a template's region, with the addresses that its users need.
type Program struct {
	Layout
	// Data goes to Base+codeSize.
	Data []byte
	// Header, Fork, Child: of the stub's header, the list that forks the zygote, the list of a clone after its request's own.
	Header, Fork, Child uint64
	// Request is where the zygote puts what it receives; Report is the list that it goes on at; Result takes clone3's.
	Request, Report, Result uint64
	// FDBase is the first of the descriptors for a request's files.
	FDBase int
	// Cwd is the working directory of the process.
	Cwd string
	// SharedFiles: it has files mapped that it writes to, or files of sockets, of which a clone needs its own: a root of its own.
	SharedFiles bool
	// PID and Group are the process's, Member its place in a tree; nil: it is alone.
	PID, Group int
	Member     *Member
	// Undo lists the mappings whose MADV_DONTFORK must be undone in the template.
	Undo []VMA

	// times is where a clone notes when its phases ended.
	times   uint64
	program *program
}

// String lists all ops.
func (p *Program) String() string { return p.program.String() }

// planner holds what the steps of Plan share.
type planner struct {
	*program
	*Program
	process *Process
	origin  *Origin
	// number is the address of the request's number, temp of two words for results.
	number, temp uint64
	main         *list
}

// Plan says what the zygote and its clones are to do, for a process without refusals; without an origin clones keep the template's privileges. It is pure: the same process and layout give the same bytes.
func Plan(process *Process, layout Layout, origin *Origin) (*Program, error) {
	p := &planner{program: newProgram(layout.Base + codeSize), origin: origin, Program: &Program{Layout: layout, Cwd: process.Cwd}, process: process}
	p.Program.program = p.program
	p.PID, p.Group, p.Member = process.Threads[0].Tid, process.Group, process.Member
	p.Header = p.bytes(make([]byte, headerSize), 8)
	binary.LittleEndian.PutUint64(p.data[headerFD:], uint64(layout.Control))
	binary.LittleEndian.PutUint64(p.data[headerReport:], kindFailed)
	p.number = p.Header + headerRequest
	p.temp = p.words(0, 0)
	p.times = p.bytes(make([]byte, 16*(len(phases)+1)), 8)
	p.Request = p.bytes(make([]byte, requestSize), 64)
	p.FDBase = max(layout.Control, layout.Peer) + 1
	for _, f := range process.Files {
		p.FDBase = max(p.FDBase, f.FD+1)
	}
	if m := process.Member; m != nil {
		p.FDBase = max(p.FDBase, m.Lent[1])
	}
	p.FDBase += fdCount // received descriptors get the numbers below first
	p.Undo = slices.DeleteFunc(slices.Clone(process.VMAs), func(v VMA) bool { return !v.dontFork() })

	p.SharedFiles = slices.ContainsFunc(process.VMAs, VMA.sharedFile) || slices.ContainsFunc(process.Files, func(f File) bool { return f.Node != nil })

	p.planZygote()
	p.main = p.list("clone")
	for _, step := range []func() error{p.planFiles, p.planMemory, p.planNotify, p.planThreads} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	p.place()
	if err := p.encode(); err != nil {
		return nil, err
	}
	p.Fork, p.Child, p.Report, p.Data = p.labels["fork"], p.labels["clone"], p.labels["report"], p.data
	if len(p.data) > regionSize-codeSize {
		return nil, fmt.Errorf("plan needs %d bytes, the region has %d", len(p.data), regionSize-codeSize)
	}
	return p.Program, nil
}

// call makes an op.
func call(what string, nr uint64, args ...uint64) Op {
	op := Op{What: what, NR: nr}
	copy(op.Args[:], args)
	return op
}

// with adds flags to an op.
func (o Op) with(flags Flag) Op { o.Flags |= flags; return o }

// to stores an op's result.
func (o Op) to(address uint64) Op { o.Ret = address; return o.with(FlagStore) }

// then goes on elsewhere.
func (o Op) then(flag Flag, next string) Op { o.Next = next; return o.with(flag) }

func poke(what string, address, value uint64) Op {
	return call(what, 0, address, value).with(FlagPoke)
}

// say sends a message, with the request's number and what may follow it.
func (p *planner) say(what string, message uint64, more ...uint64) Op {
	iov := append([]uint64{message, messageSize - 8, p.number, 8}, more...)
	return call(what, sysWritev, uint64(p.Control), p.words(iov...), uint64(len(iov)/2))
}

// lap notes the time at the end of a phase; 0 is the start.
func (p *planner) lap(n int) Op {
	const monotonic = 1
	return call("note the time", sysClockGettime, monotonic, p.times+uint64(16*n))
}

const (
	signalChild = 17
	maskSize    = 8
	prSetName   = 15
	exitStatus  = 111
)

// planZygote: the main thread of the template forks once; the child listens, and runs the list at the start of each request.
func (p *planner) planZygote() {
	ignore := p.words(1, 0, 0, 0) // struct kernel_sigaction with SIG_IGN: clones are reaped by the kernel
	p.Result = p.words(kindCloned, 0, 0) + 8
	rights := p.bytes(make([]byte, rightsSize), 8)
	iov := p.words(p.number, 8, p.Request, requestSize)
	message := p.words(0, 0, iov, 2, rights, rightsSize, 0) // struct msghdr

	p.list("fork").add(
		call("fork the zygote", sysClone).to(p.temp).then(FlagIfZero, "zygote"),
		call("tell the tracer", markCall),
	)
	p.list("zygote").add(
		call("let the kernel reap clones", sysRtSigaction, signalChild, ignore, 0, maskSize),
		call("close the controller's end", sysClose, uint64(p.Peer)),
		call("name the zygote", sysPrctl, prSetName, p.string("sprout-zygote")),
		p.say("say hello", p.words(kindHello, 0, 0)).then(FlagJump, "listen"),
	)
	p.labels["request"] = p.Request
	p.list("listen").add(
		poke("make room for descriptors", message+40, rightsSize),
		call("wait for a request", sysRecvmsg, uint64(p.Control), message, closeOnExec30).then(FlagIfZero, "end"),
		p.moveRights(rights, 0),
	)
	listen := p.lists[len(p.lists)-1]
	for n := 1; n < fdCount; n++ {
		listen.add(p.moveRights(rights, n))
	}
	for n := range fdCount {
		listen.add(call("close the descriptor received", sysClose, rights+16+uint64(4*n)).with(indirect(0) | FlagIgnore))
	}
	listen.ops[len(listen.ops)-1] = listen.ops[len(listen.ops)-1].then(FlagJump, "request")
	p.list("report").add(
		p.say("report the clone", p.Result-8),
		p.closeRequest().then(FlagJump, "listen"),
	)
	p.list("end").add(call("end", sysExitGroup, exitStatus))
}

// rightsSize is a control message with fdCount descriptors: a header of 16 bytes, then 4 each, in words of 8; and 8 more that are read with the last.
const (
	rightsSize    = 16 + (4*fdCount+7)/8*8 + 8
	closeOnExec30 = 0x40000000 // MSG_CMSG_CLOEXEC
	openCloexec   = 0o2000000
)

// moveRights gives a received descriptor the number that the lists know it by. A request always brings fdCount. The kernel reads 32 of the 64 bits that the stub loads.
func (p *planner) moveRights(rights uint64, n int) Op {
	return call("move a descriptor received", sysDup3, rights+16+uint64(4*n), uint64(p.FDBase+n), openCloexec).with(indirect(0) | FlagIgnore)
}

func (p *planner) closeRequest() Op {
	return call("close the request's descriptors", sysCloseRange, uint64(p.FDBase), uint64(p.FDBase+fdCount-1))
}

// timespec and timeval in memory.
func timespec(d time.Duration) []uint64 {
	return []uint64{uint64(d / time.Second), uint64(d % time.Second)}
}

func timeval(d time.Duration) []uint64 {
	return []uint64{uint64(d / time.Second), uint64(d % time.Second / time.Microsecond)}
}
