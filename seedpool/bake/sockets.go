package bake

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// tcpState is a socket's state as the kernel numbers it in /proc/PID/net/tcp (include/net/tcp_states.h).
type tcpState uint8

const (
	tcpEstablished tcpState = 1
	tcpTimeWait    tcpState = 6
	tcpListen      tcpState = 10
)

// tcpSocket is one row of /proc/PID/net/tcp or tcp6.
type tcpSocket struct {
	local, remote netip.AddrPort
	state         tcpState
	// queued is, for a listener, how many connections wait to be accepted.
	queued uint64
	// inode is that of the socket; 0: no process has it yet, or any more.
	inode string
}

// OpenConnection says which TCP connection of some processes, which share a network namespace, is open or waits to be accepted by them; empty: none.
func OpenConnection(pids []int) (string, error) {
	if len(pids) == 0 {
		return "", nil
	}
	sockets, err := tcpSockets(pids[0])
	if err != nil {
		return "", err
	}
	own := make(map[string]bool)
	for _, pid := range pids {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			return "", err
		}
		for _, link := range links {
			if target, err := os.Readlink(link); err == nil { // else it was closed this moment
				own[target] = true
			}
		}
	}
	return unsettled(slices.DeleteFunc(sockets, func(s tcpSocket) bool { return !own["socket:["+s.inode+"]"] })), nil
}

// tcpSockets reads the TCP sockets of the network namespace that pid is in.
func tcpSockets(pid int) ([]tcpSocket, error) {
	var all []tcpSocket
	for _, name := range []string{"tcp", "tcp6"} {
		f, err := os.Open(fmt.Sprintf("/proc/%d/net/%s", pid, name))
		if name == "tcp6" && errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		sockets, err := parseSockets(f)
		_ = f.Close()
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", f.Name(), err)
		}
		all = append(all, sockets...)
	}
	return all, nil
}

// inodeColumn is where a row has the socket's inode.
const inodeColumn = 9

// parseSockets reads the table's columns sl, local_address, rem_address, st, tx_queue:rx_queue and inode; the first line is a heading.
func parseSockets(r io.Reader) ([]tcpSocket, error) {
	var sockets []tcpSocket
	lines := bufio.NewScanner(r)
	lines.Scan()
	for lines.Scan() {
		columns := strings.Fields(lines.Text())
		if len(columns) < 5 {
			return nil, fmt.Errorf("row %q has %d columns", lines.Text(), len(columns))
		}
		local, err := parseAddrPort(columns[1])
		if err != nil {
			return nil, err
		}
		remote, err := parseAddrPort(columns[2])
		if err != nil {
			return nil, err
		}
		state, err := strconv.ParseUint(columns[3], 16, 8)
		if err != nil {
			return nil, err
		}
		_, rx, _ := strings.Cut(columns[4], ":")
		queued, err := strconv.ParseUint(rx, 16, 64)
		if err != nil {
			return nil, err
		}
		socket := tcpSocket{local: local, remote: remote, state: tcpState(state), queued: queued}
		if len(columns) > inodeColumn {
			socket.inode = columns[inodeColumn]
		}
		sockets = append(sockets, socket)
	}
	return sockets, lines.Err()
}

// parseAddrPort reads the kernel's hexadecimal address: 32-bit words in the machine's byte order, a colon, the port.
func parseAddrPort(s string) (netip.AddrPort, error) {
	address, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	if !ok || err != nil || len(raw)%4 != 0 {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address", s)
	}
	for i := 0; i < len(raw); i += 4 {
		word := binary.BigEndian.Uint32(raw[i:])
		binary.NativeEndian.PutUint32(raw[i:], word)
	}
	addr, ok := netip.AddrFromSlice(raw)
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address", s)
	}
	n, err := strconv.ParseUint(port, 16, 16)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("%q is not an address: %w", s, err)
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(n)), nil
}

// listening names the addresses that accept connections.
func listening(sockets []tcpSocket) []string {
	var names []string
	for _, s := range sockets {
		if s.state == tcpListen {
			names = append(names, s.local.String())
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// unsettled says which connection keeps an image from being taken: one that lives, or one that waits to be accepted. Empty: none.
// TIME_WAIT belongs to no process and is not dumped.
func unsettled(sockets []tcpSocket) string {
	for _, s := range sockets {
		switch {
		case s.state == tcpListen && s.queued > 0:
			return fmt.Sprintf("%d connections to %s wait to be accepted", s.queued, s.local)
		case s.state != tcpListen && s.state != tcpTimeWait:
			return fmt.Sprintf("a connection from %s to %s is open", s.local, s.remote)
		}
	}
	return ""
}
