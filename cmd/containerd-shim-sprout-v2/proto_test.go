package main

import (
	"encoding/binary"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func marshal(t testing.TB, m proto.Message) []byte {
	t.Helper()
	data, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func bootstrapParams(t testing.TB, cgroup string) *bootapi.BootstrapParams {
	t.Helper()
	dir := "/run/elsewhere"
	return &bootapi.BootstrapParams{
		InstanceID: "c1", Namespace: "ns", LogLevel: bootapi.LogLevel_LOG_LEVEL_TRACE, ContainerdVersion: "v2.4.2",
		ContainerdGrpcAddress: "/run/c.sock", ContainerdTtrpcAddress: "/run/c.sock.ttrpc", ContainerdBinary: "/bin/containerd", SocketDir: &dir,
		Extensions: []*bootapi.Extension{
			{Value: &anypb.Any{TypeUrl: "other", Value: []byte("\x1a\x03bad")}},
			{Value: &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: marshal(t, &options.Options{ShimCgroup: cgroup, BinaryName: "crun", NoPivotRoot: true, SystemdCgroup: true})}},
		},
	}
}

func TestBootstrapParamsAreDecodedAsContainerdEncodesThem(t *testing.T) {
	got, err := decodeBootstrap(marshal(t, bootstrapParams(t, "/shims")))
	if err != nil {
		t.Fatal(err)
	}
	want := bootstrap{
		protobuf: true, id: "c1", namespace: "ns", debug: true, ttrpc: "/run/c.sock.ttrpc", grpc: "/run/c.sock", publisher: "/bin/containerd",
		socketDir: "/run/elsewhere", shimCgroup: "/shims", systemdCgroup: true,
	}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(bootstrap{})); diff != "" {
		t.Error(diff)
	}
}

func TestBootstrapResultIsEncodedAsContainerdDecodesIt(t *testing.T) {
	data, err := bootstrap{protobuf: true}.answer("unix:///run/s/1")
	if err != nil {
		t.Fatal(err)
	}
	var got bootapi.BootstrapResult
	if err := proto.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	if got.Version != 3 || got.Address != "unix:///run/s/1" || got.Protocol != "ttrpc" {
		t.Errorf("containerd reads %v", &got)
	}
}

func TestExitIsEncodedAsContainerdDecodesIt(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 678, time.UTC)
	for _, status := range []uint32{0, 7, 255} {
		var got taskAPI.DeleteResponse
		if err := proto.Unmarshal(exit{Status: status, At: at, PID: 4711}.encode(), &got); err != nil {
			t.Fatal(err)
		}
		if got.ExitStatus != status || got.Pid != 4711 || !got.ExitedAt.AsTime().Equal(at) {
			t.Errorf("containerd reads %v", &got)
		}
	}
}

func TestTruncatedMessagesAreRefused(t *testing.T) {
	whole := marshal(t, bootstrapParams(t, ""))
	ends := map[int]bool{len(whole): true, 0: true}
	rest := whole
	for len(rest) > 0 {
		_, after, err := readField(rest)
		if err != nil {
			t.Fatal(err)
		}
		rest = after
		ends[len(whole)-len(rest)] = true
	}
	for n := range whole {
		if _, err := decodeBootstrap(whole[:n]); (err == nil) != ends[n] {
			t.Errorf("%d of %d bytes: error %v", n, len(whole), err)
		}
	}
}

func FuzzBootstrap(f *testing.F) {
	f.Add(marshal(f, bootstrapParams(f, "/shims")))
	f.Add([]byte(`{"version":3}`))
	// Field 6 with the wire type of a fixed64: not the address of containerd.
	f.Add([]byte("100000000"))
	f.Add(binary.AppendUvarint([]byte{0x0a}, 1<<63))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := decodeBootstrap(data)
		var want bootapi.BootstrapParams
		if proto.Unmarshal(data, &want) != nil {
			return
		}
		// What containerd's decoder takes ours must take, alike; groups, which containerd skips, it need not take.
		if err != nil {
			return
		}
		b.shimCgroup, b.systemdCgroup, b.otherOptions = "", false, nil
		same := bootstrap{
			protobuf: true, id: want.InstanceID, namespace: want.Namespace, debug: want.LogLevel <= bootapi.LogLevel_LOG_LEVEL_DEBUG,
			ttrpc: want.ContainerdTtrpcAddress, grpc: want.ContainerdGrpcAddress, publisher: want.ContainerdBinary, socketDir: want.GetSocketDir(),
		}
		if !cmp.Equal(b, same, cmp.AllowUnexported(bootstrap{})) {
			t.Errorf("got %+v, want %+v", b, same)
		}
	})
}
