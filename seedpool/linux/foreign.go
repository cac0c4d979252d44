package linux

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Socket is what another process's socket answers about itself.
type Socket struct {
	// Family, Type and Protocol as for socket(2).
	Family, Type, Protocol int
	Listening              bool
	// Address is what it is bound to, as bind(2) takes it (struct sockaddr_*); empty: nothing. Remote is that of its peer, if it is connected.
	Address, Remote []byte
	Connected       bool
	// Closed: a TCP socket that is not connected yet, or no more. Pending: it, or a socket for packets, still has something to read, or an error to tell.
	Closed, Pending bool
	// Shut: nothing more is to be read from a socket for packets.
	Shut bool
	// Backlog and Queued: of a TCP listener, the length its queue may have and has.
	Backlog, Queued uint32
	// Options that differ from a new socket's of the same kind.
	Options []SocketOption
	// Filtered: a packet filter is attached.
	Filtered bool
}

// SocketOption is an argument of setsockopt(2).
type SocketOption struct {
	Level, Name int
	Value       []byte
}

// socketOptions are those that a socket may have been given, with the bytes they take.
var socketOptions = []struct{ level, name, size int }{
	{unix.SOL_SOCKET, unix.SO_REUSEADDR, 4},
	{unix.SOL_SOCKET, unix.SO_REUSEPORT, 4},
	{unix.SOL_SOCKET, unix.SO_KEEPALIVE, 4},
	{unix.SOL_SOCKET, unix.SO_OOBINLINE, 4},
	{unix.SOL_SOCKET, unix.SO_BROADCAST, 4},
	{unix.SOL_SOCKET, unix.SO_PRIORITY, 4},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMP, 4},
	{unix.SOL_SOCKET, unix.SO_PASSCRED, 4},
	{unix.SOL_SOCKET, unix.SO_PASSSEC, 4},
	{unix.SOL_SOCKET, unix.SO_PASSPIDFD, 4},
	{unix.SOL_SOCKET, unix.SO_PASSRIGHTS, 4},
	{unix.SOL_SOCKET, unix.SO_PEEK_OFF, 4},
	{unix.SOL_SOCKET, unix.SO_MARK, 4},
	{unix.SOL_SOCKET, unix.SO_LINGER, 8},
	{unix.SOL_SOCKET, unix.SO_RCVTIMEO, 16},
	{unix.SOL_SOCKET, unix.SO_SNDTIMEO, 16},
	{unix.SOL_SOCKET, unix.SO_RCVLOWAT, 4},
	{unix.IPPROTO_IP, unix.IP_TOS, 4},
	{unix.IPPROTO_IP, unix.IP_TTL, 4},
	{unix.IPPROTO_IP, unix.IP_FREEBIND, 4},
	{unix.IPPROTO_IP, unix.IP_TRANSPARENT, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_TCLASS, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS, 4},
	{unix.IPPROTO_TCP, unix.TCP_NODELAY, 4},
	{unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 4},
	{unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 4},
	{unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 4},
	{unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
	{unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 4},
	{unix.IPPROTO_TCP, unix.TCP_FASTOPEN, 4},
	{unix.IPPROTO_TCP, unix.TCP_MAXSEG, 4},
	{unix.IPPROTO_TCP, unix.TCP_SYNCNT, 4},
	{unix.SOL_SOCKET, unix.SO_BINDTODEVICE, unix.IFNAMSIZ},
	{unix.SOL_SOCKET, unix.SO_DONTROUTE, 4},
	{unix.SOL_SOCKET, unix.SO_NO_CHECK, 4},
	{unix.SOL_SOCKET, unix.SO_RXQ_OVFL, 4},
	{unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 4},
	{unix.IPPROTO_IP, unix.IP_PKTINFO, 4},
	{unix.IPPROTO_IP, unix.IP_RECVTOS, 4},
	{unix.IPPROTO_IP, unix.IP_RECVTTL, 4},
	{unix.IPPROTO_IP, unix.IP_RECVERR, 4},
	{unix.IPPROTO_IP, unix.IP_RECVORIGDSTADDR, 4},
	{unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, 4},
	{unix.IPPROTO_IP, unix.IP_MINTTL, 4},
	{unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 4},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_TTL, 4},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_LOOP, 4},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_ALL, 4},
	{unix.IPPROTO_IP, unix.IP_MULTICAST_IF, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVHOPLIMIT, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVTCLASS, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVERR, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_RECVORIGDSTADDR, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_DONTFRAG, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_HOPS, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_LOOP, 4},
	{unix.IPPROTO_IPV6, unix.IPV6_MULTICAST_IF, 4},
	{unix.IPPROTO_UDP, unix.UDP_CORK, 4},
	{unix.IPPROTO_UDP, unix.UDP_ENCAP, 4},
	{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_TX, 4},
	{unix.IPPROTO_UDP, unix.UDP_NO_CHECK6_RX, 4},
	{unix.IPPROTO_UDP, unix.UDP_SEGMENT, 4},
	{unix.IPPROTO_UDP, unix.UDP_GRO, 4},
	{unix.SOL_NETLINK, unix.NETLINK_PKTINFO, 4},
	{unix.SOL_NETLINK, unix.NETLINK_BROADCAST_ERROR, 4},
	{unix.SOL_NETLINK, unix.NETLINK_NO_ENOBUFS, 4},
	{unix.SOL_NETLINK, unix.NETLINK_LISTEN_ALL_NSID, 4},
	{unix.SOL_NETLINK, unix.NETLINK_CAP_ACK, 4},
	{unix.SOL_NETLINK, unix.NETLINK_EXT_ACK, 4},
	{unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 4},
}

// borrow runs fn with a duplicate of a process's descriptor. It is not handed out as a file: the Go runtime would watch it.
func (p *Pidfd) borrow(fd int, fn func(fd int) error) error {
	ours, err := unix.PidfdGetfd(int(p.file.Fd()), fd, 0)
	if err != nil {
		return fmt.Errorf("descriptor %d of %d: %w", fd, p.pid, os.NewSyscallError("pidfd_getfd", err))
	}
	return errors.Join(fn(ours), unix.Close(ours))
}

// Descriptor duplicates a descriptor of the process into ours.
func (p *Pidfd) Descriptor(fd int) (*os.File, error) {
	ours, err := unix.PidfdGetfd(int(p.file.Fd()), fd, 0)
	if err != nil {
		return nil, fmt.Errorf("descriptor %d of %d: %w", fd, p.pid, os.NewSyscallError("pidfd_getfd", err))
	}
	return os.NewFile(uintptr(ours), fmt.Sprintf("%d:fd/%d", p.pid, fd)), nil
}

// Unread copies the bytes that wait in a pipe of the process; they stay there. Capacity is PipeSize.
func (p *Pidfd) Unread(fd, capacity int) (content []byte, err error) {
	err = p.borrow(fd, func(fd int) error { content, err = peek(fd, capacity); return err })
	return content, err
}

// peek duplicates what is in a pipe by tee(2) into one of ours of the same capacity.
func peek(fd, capacity int) (content []byte, err error) {
	var pair [2]int
	if err := unix.Pipe2(pair[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	defer func() { err = errors.Join(err, unix.Close(pair[0]), unix.Close(pair[1])) }()
	if _, err := unix.FcntlInt(uintptr(pair[1]), unix.F_SETPIPE_SZ, capacity); err != nil {
		return nil, os.NewSyscallError("fcntl F_SETPIPE_SZ", err)
	}
	n, err := unix.Tee(fd, pair[1], capacity, unix.SPLICE_F_NONBLOCK)
	if errors.Is(err, unix.EAGAIN) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, os.NewSyscallError("tee", err)
	}
	content = make([]byte, n)
	got, err := unix.Read(pair[0], content)
	if err == nil && int64(got) != n {
		err = unix.EIO
	}
	return content, os.NewSyscallError("read", err)
}

// PipeSize is the capacity of a pipe of the process in bytes.
func (p *Pidfd) PipeSize(fd int) (n int, err error) {
	err = p.borrow(fd, func(fd int) error {
		n, err = unix.FcntlInt(uintptr(fd), unix.F_GETPIPE_SZ, 0)
		return os.NewSyscallError("fcntl F_GETPIPE_SZ", err)
	})
	return n, err
}

// Socket asks a socket of the process.
func (p *Pidfd) Socket(fd int) (s Socket, err error) {
	err = p.borrow(fd, func(fd int) error { s, err = askSocket(fd); return err })
	if err != nil {
		return s, fmt.Errorf("ask socket %d of %d: %w", fd, p.pid, err)
	}
	return s, nil
}

func askSocket(fd int) (s Socket, err error) {
	listening := 0
	for _, q := range []struct {
		to   *int
		name int
	}{{&s.Family, unix.SO_DOMAIN}, {&s.Type, unix.SO_TYPE}, {&s.Protocol, unix.SO_PROTOCOL}, {&listening, unix.SO_ACCEPTCONN}} {
		if *q.to, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, q.name); err != nil {
			return s, os.NewSyscallError("getsockopt", err)
		}
	}
	s.Listening = listening != 0
	switch s.Family {
	case unix.AF_UNIX, unix.AF_INET, unix.AF_INET6, unix.AF_NETLINK:
	default:
		return s, nil
	}
	if s.Address, err = address(fd, unix.SYS_GETSOCKNAME); err != nil {
		return s, err
	}
	s.Remote, err = address(fd, unix.SYS_GETPEERNAME)
	if err != nil && !errors.Is(err, unix.ENOTCONN) {
		return s, err
	}
	s.Connected = err == nil
	if s.Family == unix.AF_NETLINK { // always has a name of its peer's
		s.Connected = bytes.Count(s.Remote[4:], []byte{0}) != len(s.Remote)-4
	}
	if s.Type != unix.SOCK_STREAM {
		if s.Pending, s.Shut, err = waiting(fd); err != nil {
			return s, err
		}
	}
	if s.IP() && s.Type == unix.SOCK_STREAM {
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return s, os.NewSyscallError("getsockopt TCP_INFO", err)
		}
		const tcpClose = 7 // include/net/tcp_states.h
		if s.Closed = info.State == tcpClose; s.Closed {
			s.Pending = pending(fd)
		}
		if s.Listening {
			// Of a listener these two fields are the queue, from net/ipv4/tcp.c.
			s.Queued, s.Backlog = info.Unacked, info.Sacked
		}
	}
	if s.Filtered, err = filtered(fd); err != nil {
		return s, err
	}
	s.Options, err = changedOptions(fd, s)
	return s, err
}

// pending takes the error with it.
func pending(fd int) bool {
	waiting, err := unix.IoctlGetInt(fd, unix.TIOCINQ)
	failed, ferr := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err != nil || ferr != nil || waiting != 0 || failed != 0
}

// waiting sees an empty packet, too, and one that is not sent yet.
func waiting(fd int) (pending, shut bool, err error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN | unix.POLLPRI | unix.POLLRDHUP}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return false, false, os.NewSyscallError("poll", err)
	}
	unsent, err := unix.IoctlGetInt(fd, unix.TIOCOUTQ)
	if err != nil { // netlink sends at once
		unsent = 0
	}
	got := fds[0].Revents
	shut = got&unix.POLLRDHUP != 0
	return unsent != 0 || got&(unix.POLLERR|unix.POLLPRI) != 0 || got&unix.POLLIN != 0 && !shut, shut, nil
}

// IP says that it is one over IPv4 or IPv6.
func (s Socket) IP() bool { return s.Family == unix.AF_INET || s.Family == unix.AF_INET6 }

// Port is what a socket over IP is bound to; 0: nothing.
func (s Socket) Port() int {
	if !s.IP() || len(s.Address) < 4 {
		return 0
	}
	return int(s.Address[2])<<8 | int(s.Address[3])
}

// changedOptions are the options whose values a new socket of the same kind does not have.
func changedOptions(fd int, s Socket) (list []SocketOption, err error) {
	fresh, err := unix.Socket(s.Family, s.Type|unix.SOCK_CLOEXEC, s.Protocol)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fresh)) }()
	for _, o := range socketOptions {
		have, err := option(fd, o.level, o.name, o.size)
		if err != nil {
			continue // not an option of this family
		}
		usual, err := option(fresh, o.level, o.name, o.size)
		if err != nil {
			return nil, os.NewSyscallError("getsockopt", err)
		}
		if !bytes.Equal(have, usual) {
			list = append(list, SocketOption{o.level, o.name, have})
		}
	}
	list = append(list, memberships(fd)...)
	return append(list, lockedBuffers(fd)...), nil
}

// memberships are the groups that a netlink socket listens to.
func memberships(fd int) (list []SocketOption) {
	const most = 128
	groups, err := option(fd, unix.SOL_NETLINK, unix.NETLINK_LIST_MEMBERSHIPS, most)
	if err != nil {
		return nil // not netlink
	}
	for n := range 8 * len(groups) {
		if groups[n/8]>>(n%8)&1 != 0 {
			list = append(list, SocketOption{unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, binary.LittleEndian.AppendUint32(nil, uint32(n+1))})
		}
	}
	return list
}

// lockedBuffers are the buffer sizes that the process has set itself; the kernel doubles what it is given.
func lockedBuffers(fd int) (list []SocketOption) {
	locked, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_BUF_LOCK)
	if err != nil {
		return nil
	}
	for _, b := range []struct{ lock, get, force int }{{1, unix.SO_SNDBUF, unix.SO_SNDBUFFORCE}, {2, unix.SO_RCVBUF, unix.SO_RCVBUFFORCE}} {
		if size, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, b.get); err == nil && locked&b.lock != 0 {
			list = append(list, SocketOption{unix.SOL_SOCKET, b.force, binary.LittleEndian.AppendUint32(nil, uint32(size/2))})
		}
	}
	return list
}
