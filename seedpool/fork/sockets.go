package fork

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	afUnix           = 1
	afInet, afInet6  = 2, 10
	sockStream       = 1
	sockDatagram     = 2
	afNetlink        = 16
	protocolUDP      = 17
	protocolMPTCP    = 262
	shutReading      = 1
	shutAll          = 3
	familyName       = 2 // bytes of a sockaddr without an address
	streamInsideSize = 208 << 10
)

// readSocket accepts TCP listeners with an empty queue, and TCP sockets that lead nowhere. Unix sockets are judged when all are known.
func (i *inspector) readSocket(process *linux.Pidfd, f *File) error {
	s, err := process.Socket(f.FD)
	if err != nil {
		return err
	}
	f.Socket = &s
	switch what := fmt.Sprintf("descriptor %d is a socket of family %d, type %d, protocol %d", f.FD, s.Family, s.Type, s.Protocol); {
	case s.Protocol == protocolMPTCP:
		i.refuse(CodeMPTCP, "Go: GODEBUG=multipathtcp=0", "%s", what)
	case s.Filtered:
		i.refuse(CodeSocket, "", "%s with a packet filter", what)
	case s.Family == afUnix:
	case s.Family == afNetlink:
		i.judgeNetlink(s, what)
	case s.IP() && s.Type == sockDatagram && s.Protocol == protocolUDP:
		i.judgeUDP(s, what)
	case s.Family != afInet && s.Family != afInet6 || s.Type != sockStream:
		i.refuse(CodeSocket, "", "%s", what)
	case s.Connected:
		i.refuse(CodeConnected, "close connections before the seed is baked", "%s with a peer", what)
	case s.Closed && s.Pending:
		i.refuse(CodeConnected, TryAgain, "%s that has more to tell", what)
	case s.Closed: // what CRIU makes of a connection
	case !s.Listening:
		i.refuse(CodeSocket, "", "%s that does not listen", what)
	case s.Queued != 0:
		i.refuse(CodeConnected, TryAgain, "%s with %d connections to accept", what, s.Queued)
	}
	return nil
}

func (i *inspector) judgeUDP(s linux.Socket, what string) {
	switch {
	case s.Pending:
		i.refuse(CodeConnected, TryAgain, "%s with a packet to read or to send, or an error to tell", what)
	case s.Shut:
		i.refuse(CodeSocket, "", "%s that was shut", what)
	case s.Connected && s.Port() == 0:
		i.refuse(CodeSocket, "", "%s with a peer and no port", what)
	}
}

// netlinkProtocols keep nothing of a socket but its groups and options: routes, socket diagnosis, events of devices.
var netlinkProtocols = []int{0, 4, 15}

func (i *inspector) judgeNetlink(s linux.Socket, what string) {
	switch {
	case !slices.Contains(netlinkProtocols, s.Protocol):
		i.refuse(CodeSocket, "", "%s, which may have left something in the kernel", what)
	case s.Pending:
		i.refuse(CodeConnected, TryAgain, "%s with something to read", what)
	case s.Connected:
		i.refuse(CodeConnected, "", "%s with a peer", what)
	}
}

// multicast refuses UDP sockets where somebody is in a group: whose membership it is nobody tells.
func (i *inspector) multicast(files []File) error {
	udp := slices.IndexFunc(files, func(f File) bool { return f.Socket != nil && f.Socket.Protocol == protocolUDP })
	if udp < 0 {
		return nil
	}
	for _, name := range []string{"igmp", "igmp6"} {
		text, err := i.read("net/%s", name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if group := firstGroup(text); group != "" {
			i.refuse(CodeSocket, "", "descriptor %d is a UDP socket, and there is one in multicast group %s", files[udp].FD, group)
		}
	}
	return nil
}

// ownGroups are those that every host is in: all hosts, all nodes, and the solicited-node groups of its addresses.
var ownGroups = regexp.MustCompile(`^(010000E0|ff0[12]0{27}1|ff0200000000000000000001ff[0-9a-f]{6})$`)

var anyGroup = regexp.MustCompile(`\b([0-9A-F]{8}|[0-9a-f]{32})\b`)

// firstGroup finds in /proc/net/igmp or igmp6 a group that a program has joined.
func firstGroup(text string) string {
	for line := range strings.Lines(text) {
		if group := anyGroup.FindString(line); group != "" && !ownGroups.MatchString(group) {
			return group
		}
	}
	return ""
}

// judgeClosed refuses a TCP socket that is bound to a port and not connected, unless the port is that of a listener: that one was a connection, and nobody asks for its
// address any more. Another may be about to listen.
func (i *inspector) judgeClosed(files []File) {
	for _, f := range files {
		if f.Kind != KindSocket || !f.Socket.Closed || f.Socket.Listening || f.Socket.Port() == 0 {
			continue
		}
		listens := func(o File) bool { return o.Socket != nil && o.Socket.Listening && o.Socket.Port() == f.Socket.Port() }
		if !slices.ContainsFunc(files, listens) {
			i.refuse(CodeSocket, "", "descriptor %d is a socket that is bound to port %d and does not listen", f.FD, f.Socket.Port())
		}
	}
}

func (f File) unix() bool { return f.Kind == KindSocket && f.Socket.Family == afUnix && f.Same == f.FD }

// named says that a unix socket has an address.
func (f File) named() bool { return len(f.Socket.Address) > familyName }

// otherEnd finds the socket that a unix socket is connected to, if that is connected to it and open in the process, too.
func otherEnd(f File, files []File) (File, bool) {
	at := slices.IndexFunc(files, func(o File) bool {
		return f.Link.Peer != 0 && o.unix() && o.FD != f.FD && o.Inode == f.Link.Peer && o.Link.Peer == f.Inode
	})
	if at < 0 {
		return File{}, false
	}
	return files[at], true
}

// readLinks asks for what unix sockets are connected to.
func (i *inspector) readLinks(files []File) error {
	var inodes []uint64
	for _, f := range files {
		if f.unix() {
			inodes = append(inodes, f.Inode)
		}
	}
	ns, err := linux.NSFile(i.pid, "net")
	if err != nil {
		return err
	}
	defer ns.Close()
	links, err := linux.UnixLinks(ns, inodes)
	if err != nil {
		return err
	}
	for n, f := range files {
		link, known := links[f.Inode]
		if files[n].Link = link; f.unix() && !known {
			i.refuse(CodeSocket, "", "descriptor %d is a unix socket of another network namespace", f.FD)
		}
	}
	return nil
}

// judgeUnix judges unix sockets: both ends of a connection must be inside.
func (i *inspector) judgeUnix(files []File) error {
	for n := range files {
		if !files[n].unix() {
			continue
		}
		if err := i.judgeLink(&files[n], files); err != nil {
			return err
		}
	}
	return nil
}

func (i *inspector) judgeLink(f *File, files []File) error {
	s, what := f.Socket, fmt.Sprintf("descriptor %d is a unix socket", f.FD)
	_, inside := otherEnd(*f, files)
	switch stream := s.Type == sockStream; {
	case s.Listening && f.Link.Queued != 0:
		i.refuse(CodeConnected, TryAgain, "%s with %d connections to accept", what, f.Link.Queued)
	case s.Pending || f.Link.Queued != 0 && (!stream || !inside):
		i.refuse(CodeConnected, TryAgain, "%s with something to read", what)
	case s.Connected && f.Link.Peer == 0 && f.Link.Shut == shutAll && s.Type != sockDatagram && !f.named(): // java keeps one, to put in the place of what it closes
	case s.Connected && !inside:
		i.refuse(CodeConnected, "close connections before the seed is baked", "%s that is connected to one outside the process, or in one direction", what)
	case s.Connected && f.named():
		i.refuse(CodeConnected, "", "%s that is connected and has a name", what)
	case f.Link.Shut != 0 && !inside:
		i.refuse(CodeSocket, "", "%s that was shut", what)
	case f.Link.Queued != 0:
		return i.readStream(f)
	case f.named():
		return i.readBound(f)
	}
	return nil
}

// readStream copies what waits in one end of a connection.
func (i *inspector) readStream(f *File) (err error) {
	if f.Link.Queued > streamInsideSize {
		i.refuse(CodeConnected, TryAgain, "descriptor %d is a unix socket with %d bytes to read", f.FD, f.Link.Queued)
		return nil
	}
	process, err := linux.OpenPidfd(f.Holder)
	if err != nil {
		return err
	}
	defer process.Close()
	f.Content, err = process.UnreadStream(f.Held, int(f.Link.Queued))
	if errors.Is(err, linux.ErrUnreadable) {
		i.refuse(CodeConnected, TryAgain, "descriptor %d is a unix socket with more to read than bytes: %v", f.FD, err)
		return nil
	}
	return err
}

// readBound reads the file of a socket with a name. It must be where its name leads: the clone's takes its place there.
func (i *inspector) readBound(f *File) error {
	name := f.Socket.Address[familyName:]
	if name[0] == 0 {
		return nil // no file
	}
	f.Path = string(bytes.TrimRight(name, "\x00"))
	process, err := linux.OpenPidfd(f.Holder)
	if err != nil {
		return err
	}
	defer process.Close()
	bound, err := process.SocketFile(f.Held)
	if err != nil {
		return err
	}
	named, err := os.Lstat(fmt.Sprintf("/proc/%d/root%s", i.pid, f.Path))
	if f.Path[0] != '/' || err != nil || !os.SameFile(bound, named) {
		i.refuse(CodeUnlinked, "", "descriptor %d: %s is not the file of the socket", f.FD, f.Path)
		return nil
	}
	stat, ok := bound.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("file of socket %s: %w", f.Path, fs.ErrInvalid)
	}
	f.Node = &Node{Mode: stat.Mode & 0o7777, UID: int(stat.Uid), GID: int(stat.Gid)}
	return nil
}
