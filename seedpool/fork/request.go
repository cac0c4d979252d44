package fork

import (
	"encoding/binary"
	"fmt"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Sandbox is what a clone has of its own beyond its process.
type Sandbox struct {
	// Hostname in the clone's own UTS namespace; empty leaves the template's.
	Hostname string
	// Root: the mount tree that comes with the request becomes the clone's root, and nothing of the template's mounts is left. What the process has open is
	// opened there by the same paths.
	Root bool
	// Proc mounts a new /proc.
	Proc bool
	// Mounts are made in the root, in this order, after /proc.
	Mounts []Mount
	// OwnNet makes a network namespace with only a loopback device; else the clone joins the one that comes with the request.
	OwnNet bool
	// JoinIPC and JoinUTS: it joins the ones that come with the request; else it has new ones.
	JoinIPC, JoinUTS bool
	// Cgroup: the clone begins in the cgroup that comes with the request.
	Cgroup bool
	// clocks are what the clone's time namespace adds to the machine's; nil: it has the template's.
	clocks *linux.Clocks
	// CgroupNS: it has a cgroup namespace whose root is that cgroup. Where there are v1 hierarchies it would have the template's in those.
	CgroupNS bool
}

// Mount is what mount(2) takes; Flags are MS_*.
type Mount struct {
	Source, Target, Type string
	Flags                uint64
	Data                 string
}

const (
	cloneNewNS, cloneNewUTS, cloneNewIPC     = 0x20000, 0x4000000, 0x8000000
	cloneNewPID, cloneNewNet                 = 0x20000000, 0x40000000
	cloneIntoCgroup, cloneNewCgroup          = 0x200000000, 0x2000000
	mountReadOnly, mountNoSuid               = 1, 2
	mountNoDev, mountNoExec                  = 4, 8
	mountRecursive, mountPrivate             = 0x4000, 0x40000
	moveEmptyPath, unmountDetach             = 4, 2
	datagram, setInterfaceFlags, interfaceUp = 2, 0x8914, 1
)

// request is the packet that has the zygote make a clone: its memory in the zygote's request buffer, beginning with the first op. It is pure.
func (p *Program) request(number uint64, s Sandbox) ([]byte, *program, error) {
	r := newProgram(p.Request)
	entry := r.list("entry")
	r.labels["entry"] = r.bytes(make([]byte, opSize), 8)
	r.labels["clone"], r.labels["report"] = p.Child, p.Report
	temp := r.words(0)
	entry.add(poke("begin", temp, 0).then(FlagJump, "request"))

	flags := uint64(cloneNewPID | cloneNewNS)
	for _, f := range []struct {
		set  bool
		flag uint64
	}{{!s.JoinUTS, cloneNewUTS}, {!s.JoinIPC, cloneNewIPC}, {s.OwnNet, cloneNewNet}, {s.Cgroup, cloneIntoCgroup}} {
		if f.set {
			flags |= f.flag
		}
	}
	args := r.words(cloneArgs{flags: flags, exitSignal: signalChild, cgroup: uint64(p.FDBase + fdCgroup)}.words()...)
	switch {
	case p.Member == nil:
		r.list("request").add(p.setClocks(r, s)...)
		r.lists[len(r.lists)-1].add(
			call("clone the template", sysClone3, args, cloneArgsSize).to(p.Result).then(FlagIfZero, "sandbox").with(FlagIgnore),
			poke("end", temp, 0).then(FlagJump, "report"),
		)
		p.sandbox(r, temp, s)
	case p.PID == 1:
		p.helper(r, p.setClocks(r, s)...)
		r.list("helper").add(call("clone the template", sysClone3, args, cloneArgsSize).then(FlagIfZero, "sandbox"), call("end", sysExitGroup))
		p.sandbox(r, temp, s)
	default:
		p.helper(r, p.joinClocks(s)...)
		p.child(r, temp, s)
	}
	r.place()
	if err := r.encode(); err != nil {
		return nil, nil, err
	}
	if len(r.data) > requestSize {
		return nil, nil, fmt.Errorf("request needs %d bytes, the zygote has room for %d", len(r.data), requestSize)
	}
	return append(binary.LittleEndian.AppendUint64(nil, number), r.data...), r, nil
}

// birth is what every process of a clone begins with.
func (p *Program) birth(r *program) *list {
	iov := r.words(r.words(kindBorn, 0, 0), messageSize-8, p.Header+headerRequest, 8)
	const monotonic = 1
	l := r.list("sandbox")
	l.add(call("report birth", sysWritev, uint64(p.Control), iov, 2),
		call("note the time", sysClockGettime, monotonic, p.times),
		p.session())
	return l
}

func (p *Program) sandbox(r *program, temp uint64, s Sandbox) {
	l := p.birth(r)
	if s.OwnNet {
		name := append(append([]byte("lo"), make([]byte, 14)...), append([]byte{interfaceUp, 0}, make([]byte, 22)...)...) // struct ifreq
		l.add(call("make a socket", sysSocket, afInet, datagram).to(temp),
			call("set lo up", sysIoctl, temp, setInterfaceFlags, r.bytes(name, 8)).with(indirect(0)),
			call("close it", sysClose, temp).with(indirect(0)))
	} else {
		l.add(call("join the network namespace", sysSetns, uint64(p.FDBase+fdNet), cloneNewNet))
	}
	if s.JoinIPC {
		l.add(call("join the IPC namespace", sysSetns, uint64(p.FDBase+fdIPC), cloneNewIPC))
	}
	if s.JoinUTS {
		l.add(call("join the UTS namespace", sysSetns, uint64(p.FDBase+fdUTS), cloneNewUTS))
	}
	if s.CgroupNS {
		l.add(call("make a cgroup namespace", sysUnshare, cloneNewCgroup))
	}
	p.mounts(r, l, s)
	if s.Hostname != "" && !s.JoinUTS {
		l.add(call("set the host name", sysSethostname, r.string(s.Hostname), uint64(len(s.Hostname))))
	}
	l.add(poke("go on", temp, 0).then(FlagJump, "clone"))
}

// mounts: the tree is attached over the root, entered by its descriptor, and made the root in the way of pivot_root(2): the old root comes to lie on top of the
// new one, from where it is taken away.
func (p *Program) mounts(r *program, l *list, s Sandbox) {
	none, root, dot, empty := r.string("none"), r.string("/"), r.string("."), r.string("")
	l.add(call("keep mounts private", sysMount, none, root, 0, mountRecursive|mountPrivate))
	if s.Root {
		tree := uint64(p.FDBase + fdRoot)
		l.add(call("attach the root", sysMoveMount, tree, empty, here, root, moveEmptyPath),
			call("enter it", sysFchdir, tree),
			call("make it the root", sysPivotRoot, dot, dot),
			call("take the old root away", sysUmount2, dot, unmountDetach))
	}
	if s.Proc {
		proc := r.string("proc")
		l.add(call("mount /proc", sysMount, proc, r.string("/proc"), proc, mountNoSuid|mountNoDev|mountNoExec))
	}
	for _, m := range s.Mounts {
		data := uint64(0)
		if m.Data != "" {
			data = r.string(m.Data)
		}
		target := r.string(m.Target)
		l.add(call("mount "+m.Target, sysMount, r.string(m.Source), target, r.string(m.Type), m.Flags, data))
		// The message queues of a new IPC namespace belong to the user who made it: the app's.
		if m.Type == "mqueue" && !s.JoinIPC && m.Flags&mountReadOnly == 0 {
			l.add(call("give it to root", sysFchownat, here, target, 0, 0))
		}
	}
	if s.Root {
		l.add(call("go to "+p.Cwd, sysChdir, r.string(p.Cwd)))
	}
}
