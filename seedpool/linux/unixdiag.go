package linux

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// UnixLink is what the kernel knows of a unix socket, and the socket itself does not tell.
type UnixLink struct {
	// Peer is the inode of the socket that it is connected to; 0: none, or one that is gone.
	Peer uint64
	// Queued and Backlog: connections that wait at a listener, and how many may; of any other socket Queued are bytes to read.
	Queued, Backlog uint32
	// Shut are the directions that were shut: 1 is reading, 2 is writing.
	Shut int
}

// Numbers of include/uapi/linux/unix_diag.h.
const (
	unixShowPeer, unixShowQueue               = 1 << 2, 1 << 4
	unixAttrPeer, unixAttrQueue, unixAttrShut = 2, 4, 6
	unixDiagHeader                            = 16
	anyState, anyCookie                       = ^uint32(0), ^uint32(0)
)

// UnixLinks asks for sockets of a network namespace by their inodes. One that is not there is not in the answer. They are asked one by one: a list of all would
// be as long as the host's.
func UnixLinks(ns *os.File, inodes []uint64) (map[uint64]UnixLink, error) {
	links := make(map[uint64]UnixLink, len(inodes))
	if len(inodes) == 0 {
		return links, nil
	}
	err := Enter([]NS{{unix.CLONE_NEWNET, ns}}, func() error {
		for _, inode := range inodes {
			link, err := unixLink(inode)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return fmt.Errorf("unix socket %d: %w", inode, err)
			}
			links[inode] = link
		}
		return nil
	})
	return links, err
}

func unixLink(inode uint64) (link UnixLink, err error) {
	r := nl.NewNetlinkRequest(nl.SOCK_DIAG_BY_FAMILY, 0)
	ask := []byte{unix.AF_UNIX, 0, 0, 0} // struct unix_diag_req
	for _, word := range []uint32{anyState, uint32(inode), unixShowPeer | unixShowQueue, anyCookie, anyCookie} {
		ask = binary.NativeEndian.AppendUint32(ask, word)
	}
	r.AddRawData(ask)
	answers, err := r.Execute(unix.NETLINK_INET_DIAG, 0)
	if err != nil {
		return link, fmt.Errorf("sock_diag: %w", err)
	}
	if len(answers) != 1 || len(answers[0]) < unixDiagHeader {
		return link, fmt.Errorf("sock_diag gave %d answers: %w", len(answers), unix.EPROTO)
	}
	attributes, err := nl.ParseRouteAttr(answers[0][unixDiagHeader:])
	if err != nil {
		return link, fmt.Errorf("sock_diag: %w", err)
	}
	for _, a := range attributes {
		switch {
		case a.Attr.Type == unixAttrPeer && len(a.Value) >= 4:
			link.Peer = uint64(binary.NativeEndian.Uint32(a.Value))
		case a.Attr.Type == unixAttrQueue && len(a.Value) >= 8:
			link.Queued, link.Backlog = binary.NativeEndian.Uint32(a.Value), binary.NativeEndian.Uint32(a.Value[4:])
		case a.Attr.Type == unixAttrShut && len(a.Value) >= 1:
			link.Shut = int(a.Value[0])
		}
	}
	return link, nil
}
