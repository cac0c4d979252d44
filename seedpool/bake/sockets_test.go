package bake

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const heading = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"

func TestKernelTableIsRead(t *testing.T) {
	table := heading +
		"   0: 0100007F:1F90 00000000:0000 0A 00000000:00000002 00:00000000 00000000  1000        0 12 1 0 100 0 0 10 0\n" +
		"   1: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000  1000        0 13 1 0 20 4 30 10 -1\n" +
		"   2: 0000000000000000FFFF00000100007F:0050 00000000000000000000000001000000:C350 06 00000000:00000000 03:000 0 0 0 0 3 0\n"
	got, err := parseSockets(strings.NewReader(table))
	if err != nil {
		t.Fatal(err)
	}
	want := []tcpSocket{
		{local: netip.MustParseAddrPort("127.0.0.1:8080"), remote: netip.MustParseAddrPort("0.0.0.0:0"), state: tcpListen, queued: 2, inode: "12"},
		{local: netip.MustParseAddrPort("127.0.0.1:8080"), remote: netip.MustParseAddrPort("127.0.0.1:50000"), state: tcpEstablished, inode: "13"},
		{local: netip.MustParseAddrPort("127.0.0.1:80"), remote: netip.MustParseAddrPort("[::1]:50000"), state: tcpTimeWait, inode: "0"},
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(tcpSocket{}), cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
}

func TestBrokenTableIsAnError(t *testing.T) {
	for _, row := range []string{"0: 0100007F:1F90", "0: 01:1F90 00000000:0000 0A 0:0", "0: 0100007F:1F90 00000000:0000 ZZ 0:0", "0: 0100007F:1F90 00000000:0000 0A 0", "0: 0100007F 00000000:0000 0A 0:0"} {
		if got, err := parseSockets(strings.NewReader(heading + row + "\n")); err == nil {
			t.Errorf("%q was read as %v", row, got)
		}
	}
}

func TestOpenAndQueuedConnectionsAreUnsettled(t *testing.T) {
	listener := tcpSocket{local: netip.MustParseAddrPort("127.0.0.1:80"), state: tcpListen}
	waiting := listener
	waiting.queued = 1
	closing := tcpSocket{local: netip.MustParseAddrPort("127.0.0.1:80"), remote: netip.MustParseAddrPort("127.0.0.1:50000"), state: 8}
	for name, c := range map[string]struct {
		sockets []tcpSocket
		want    string
	}{
		"none":       {nil, ""},
		"listener":   {[]tcpSocket{listener}, ""},
		"time wait":  {[]tcpSocket{listener, {state: tcpTimeWait}}, ""},
		"queued":     {[]tcpSocket{waiting}, "1 connections to 127.0.0.1:80 wait to be accepted"},
		"close wait": {[]tcpSocket{listener, closing}, "a connection from 127.0.0.1:80 to 127.0.0.1:50000 is open"},
	} {
		if got := unsettled(c.sockets); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestRealListenerIsFound(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	sockets, err := tcpSockets(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if want := l.Addr().String(); !strings.Contains(fmt.Sprint(listening(sockets)), want) {
		t.Errorf("%s is not among %v", want, listening(sockets))
	}
}
