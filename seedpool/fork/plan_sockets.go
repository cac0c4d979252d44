package fork

import (
	"fmt"
)

// planSocket makes a socket that is not connected to another of the process.
func (p *planner) planSocket(f File) {
	s := f.Socket
	p.main.add(call("make a socket", sysSocket, uint64(s.Family), uint64(s.Type), uint64(s.Protocol)).to(p.temp))
	p.options(f, p.temp)
	// The address of a TCP socket that has no peer is of use to nobody, and the listener's, mostly.
	if s.Listening || s.Family == afUnix && f.named() || s.Family == afNetlink || s.Port() != 0 && s.Type == sockDatagram {
		p.bind(f)
	}
	if s.Connected {
		p.main.add(call("connect it", sysConnect, p.temp, p.bytes(s.Remote, 8), uint64(len(s.Remote))).with(indirect(0)))
	}
	if s.Listening {
		p.main.add(call("listen", sysListen, p.temp, uint64(max(s.Backlog, f.Link.Backlog))).with(indirect(0)))
	}
	p.unblock(f, p.temp)
	p.put(p.temp, f)
}

func (p *planner) options(f File, at uint64) {
	for _, o := range f.Socket.Options {
		p.main.add(call("set an option", sysSetsockopt, at, uint64(o.Level), uint64(o.Name), p.bytes(o.Value, 8), uint64(len(o.Value))).with(indirect(0)))
	}
}

// bind gives the new socket its address. A unix socket's file is in the way, and its successor becomes like it.
func (p *planner) bind(f File) {
	bind := call("bind it", sysBind, p.temp, p.bytes(f.Socket.Address, 8), uint64(len(f.Socket.Address))).with(indirect(0))
	if f.Node == nil {
		p.main.add(bind)
		return
	}
	path := p.string(f.Path)
	p.main.add(call("remove "+f.Path, sysUnlinkat, here, path).with(FlagIgnore), bind,
		call("give it its owner", sysFchownat, here, path, uint64(f.Node.UID), uint64(f.Node.GID), noFollow),
		call("give it its mode", sysFchmodat, here, path, uint64(f.Node.Mode)))
}

func (p *planner) unblock(f File, at uint64) {
	if f.Flags&openNonblock != 0 {
		p.main.add(call("make it non-blocking", sysFcntl, at, fcntlSetFlags, openNonblock).with(indirect(0)))
	}
}

// planUnix makes the connections of unix sockets.
func (p *planner) planUnix() error {
	for _, f := range p.process.Files {
		if !f.unix() || !f.Socket.Connected {
			continue
		}
		other, inside := otherEnd(f, p.process.Files)
		switch {
		case !inside && f.Link.Peer == 0:
			p.planPair(f, nil)
		case !inside:
			return fmt.Errorf("descriptor %d is connected to a socket outside", f.FD)
		case f.FD < other.FD:
			p.planPair(f, &other)
		}
	}
	return nil
}

// planPair makes two connected sockets, or one whose peer is gone.
func (p *planner) planPair(f File, other *File) {
	pair := p.words(0, 0) // the second word is read with the second descriptor
	p.main.add(call("make a socket pair", sysSocketpair, afUnix, uint64(f.Socket.Type), uint64(f.Socket.Protocol), pair))
	p.options(f, pair)
	if other == nil {
		p.main.add(call("hang up", sysClose, pair+4).with(indirect(0)))
		p.unblock(f, pair)
		p.put(pair, f)
		return
	}
	p.options(*other, pair+4)
	ends := []struct {
		File
		at, from uint64
	}{{f, pair, pair + 4}, {*other, pair + 4, pair}}
	for _, end := range ends {
		if len(end.Content) > 0 {
			p.main.add(call("fill it", sysWrite, end.from, p.bytes(end.Content, 1), uint64(len(end.Content))).with(indirect(0)))
		}
	}
	for _, end := range ends {
		if end.Link.Shut != 0 {
			p.main.add(call("shut it", sysShutdown, end.at, uint64(end.Link.Shut-1)).with(indirect(0)))
		}
	}
	for _, end := range ends {
		p.unblock(end.File, end.at)
		p.put(end.at, end.File)
	}
}
