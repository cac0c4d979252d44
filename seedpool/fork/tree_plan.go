package fork

// take is the op by which a child gets a descriptor of the clone's first process.
func (p *planner) take(from int) Op {
	return call("take it from the first process", sysPidfdGetfd, uint64(p.FDBase+fdInit), uint64(from)).to(p.temp)
}

// lent is the descriptor under which the first process keeps shared memory for its children, 0 if it does not; and whether this is the first process.
func (p *planner) lent(inode uint64) (fd int, first bool) {
	if p.process.Member == nil {
		return 0, false
	}
	return p.process.Member.Memory[inode], p.Program.PID == 1
}

// closeLent closes what the first process had only for its children, which have it by then.
func (p *planner) closeLent() []Op {
	if m := p.process.Member; m != nil && m.Lent[1] > m.Lent[0] {
		return []Op{call("close what was for the children", sysCloseRange, uint64(m.Lent[0]), uint64(m.Lent[1]-1))}
	}
	return nil
}

// session is the op that gives a process its session, or its process group.
func (p *Program) session() Op {
	switch {
	case p.Member == nil || p.Member.Leads:
		return call("begin a session", sysSetsid)
	case p.Group == p.PID:
		return call("begin a process group", sysSetpgid)
	}
	return call("join its process group", sysSetpgid, 0, uint64(p.Group))
}

const anyChild = ^uint64(0)

// helper has the zygote make a process that shares its memory and goes on at the list of that name, and wait for its end: what that one makes has another parent then, the
// first process of its pid namespace. The result is
// its number or, since the helper writes there, too, 0. So the init of a tree is in nobody's process group's reach (an orphaned one is what it was), and its children are its own.
func (p *Program) helper(r *program, before ...Op) {
	args := r.words(cloneArgs{flags: cloneVM, exitSignal: signalChild}.words()...)
	r.list("request").add(append(before,
		call("make a helper", sysClone3, args, cloneArgsSize).to(p.Result).then(FlagIfZero, "helper").with(FlagIgnore),
		call("wait for its end", sysWait4, anyChild).with(FlagIgnore).then(FlagJump, "report"))...)
}

// child makes a child of a clone: the helper cannot be its parent, being outside of the pid namespace. It makes one inside, in the other namespaces, too, that makes the child, with
// the number it had, and ends.
func (p *Program) child(r *program, temp uint64, s Sandbox) {
	namespaces := uint64(cloneNewNS | cloneNewNet | cloneNewIPC | cloneNewUTS)
	if s.CgroupNS {
		namespaces |= cloneNewCgroup
	}
	inside := r.words(cloneArgs{flags: cloneVM, exitSignal: signalChild, setTid: r.words(uint64(p.Member.Helper)), setTidSize: 1}.words()...)
	args := cloneArgs{exitSignal: signalChild, setTid: r.words(uint64(p.PID)), setTidSize: 1, cgroup: uint64(p.FDBase + fdCgroup)}
	if s.Cgroup {
		args.flags = cloneIntoCgroup
	}
	r.list("helper").add(
		call("go to the pid namespace", sysSetns, uint64(p.FDBase+fdInit), cloneNewPID),
		call("make a helper inside", sysClone3, inside, cloneArgsSize).then(FlagIfZero, "inside"),
		call("wait for its end", sysWait4, anyChild).with(FlagIgnore),
		call("end", sysExitGroup),
	)
	r.list("inside").add(
		call("join the first process's namespaces", sysSetns, uint64(p.FDBase+fdInit), namespaces),
		call("clone the template", sysClone3, r.words(args.words()...), cloneArgsSize).then(FlagIfZero, "sandbox"),
		call("end", sysExitGroup),
	)
	p.birth(r).add(
		call("go to "+p.Cwd, sysChdir, r.string(p.Cwd)),
		poke("go on", temp, 0).then(FlagJump, "clone"),
	)
}
