package fork

import "fmt"

const (
	cloneVM, cloneFS, cloneFiles, cloneSighand = 0x100, 0x200, 0x400, 0x800
	cloneThread, cloneSysvsem                  = 0x10000, 0x40000
	cloneSetTLS, cloneClearTid                 = 0x80000, 0x200000
	threadFlags                                = cloneVM | cloneFS | cloneFiles | cloneSighand | cloneThread | cloneSysvsem | cloneSetTLS | cloneClearTid

	futexWait, futexWake = 128, 129 // FUTEX_PRIVATE_FLAG with FUTEX_WAIT, FUTEX_WAKE
	everyone             = 1<<31 - 1
	gateBytes            = 1
)

// cloneArgs is struct clone_args of clone3(2).
type cloneArgs struct {
	flags, pidfd, childTid, parentTid, exitSignal, stack, stackSize, tls, setTid, setTidSize, cgroup uint64
}

func (a cloneArgs) words() []uint64 {
	return []uint64{a.flags, a.pidfd, a.childTid, a.parentTid, a.exitSignal, a.stack, a.stackSize, a.tls, a.setTid, a.setTidSize, a.cgroup}
}

const cloneArgsSize = 88

// planThreads: the main thread makes the others, waits until each has told that it is set up, reports, waits at the gate, opens the barrier at which the others
// wait, and every thread leaves the stub through its signal frame: one call restores all registers, the signal mask and the alternate stack.
func (p *planner) planThreads() error {
	main := p.process.Threads[0]
	barrier := p.words(1)
	p.main.add(p.lap(3),
		call("restore the action on SIGCHLD", sysRtSigaction, signalChild, p.bytes(p.process.ChildAction, 8), 0, maskSize),
		call("name the main thread", sysPrctl, prSetName, p.string(main.Comm)),
		call("say what to clear at its end", sysSetTidAddress, main.ClearTid))
	p.main.add(p.robust(main)...)
	if p.process.Member != nil {
		p.main.add(restartable(main)...) // what a clone that is alone has inherited
	}
	var done []uint64
	for _, t := range p.process.Threads[1:] {
		word := p.words(0)
		done = append(done, word)
		p.main.add(p.planThread(t, word, barrier))
	}
	for n, word := range done {
		p.main.add(call(fmt.Sprintf("wait for thread %d", p.process.Threads[n+1].Tid), sysFutex, word, futexWait, 0).with(FlagWait))
	}
	p.planTimers()
	p.main.add(p.dropLast()...)
	times := uint64(16 * (len(phases) + 1))
	p.main.add(p.lap(4),
		p.say("report ready", p.words(kindReady, 0, 0), p.times, times),
		call("wait at the gate", sysRead, uint64(p.FDBase+fdGate), p.temp, gateBytes).then(FlagIfZero, "end"),
		call("close the control socket", sysClose, uint64(p.Control)),
		p.closeRequest())
	p.main.add(p.closeLent()...)
	p.main.add(
		poke("open the barrier", barrier, 0),
		call("wake the threads", sysFutex, barrier, futexWake, everyone),
		p.leave(main))
	return nil
}

func (p *planner) planThread(t Thread, done, barrier uint64) Op {
	name := fmt.Sprintf("thread %d", t.Tid)
	l := p.list(name)
	l.add(call("name it", sysPrctl, prSetName, p.string(t.Comm)))
	l.add(p.robust(t)...)
	l.add(restartable(t)...)
	l.add(p.capset()...)
	l.add(poke("be done", done, 1),
		call("tell the main thread", sysFutex, done, futexWake, 1),
		call("wait at the barrier", sysFutex, barrier, futexWait, 1).with(FlagWait),
		p.leave(t))
	args := p.words(cloneArgs{
		flags: threadFlags, childTid: t.ClearTid, tls: t.Regs.Fs_base, setTid: p.words(uint64(t.Tid)), setTidSize: 1,
	}.words()...)
	return call("make "+name, sysClone3, args, cloneArgsSize).then(FlagIfZero, name)
}

func (p *planner) robust(t Thread) []Op {
	if t.RobustHead == 0 {
		return nil
	}
	return []Op{call("register robust futexes", sysSetRobustList, t.RobustHead, t.RobustLen)}
}

func restartable(t Thread) []Op {
	if t.Rseq.Pointer == 0 {
		return nil
	}
	return []Op{call("register restartable sequences", sysRseq, t.Rseq.Pointer, uint64(t.Rseq.Size), uint64(t.Rseq.Flags), uint64(t.Rseq.Signature))}
}

func (p *planner) leave(t Thread) Op {
	return call("become the application", sysRtSigreturn, p.frame(t, p.XState)).with(FlagStack)
}
