package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sproutrun/sprout/seedpool"
)

func TestOlderContainerdIsUnderstoodByFlagsAndEnvironment(t *testing.T) {
	t.Setenv("TTRPC_ADDRESS", "/run/c.sock.ttrpc")
	a := args{namespace: "ns", id: "c1", address: "/run/c.sock", publisher: "/bin/containerd", debug: true}
	// Runtime options are also a message with two fields of bytes, as BootstrapParams begin.
	for _, stdin := range [][]byte{nil, marshal(t, &anypb.Any{TypeUrl: "containerd.runc.v1.Options", Value: marshal(t, &options.Options{ShimCgroup: "/shims"})})} {
		b := readBootstrap(a, stdin)
		if b.protobuf || b.id != "c1" || b.namespace != "ns" || b.ttrpc != "/run/c.sock.ttrpc" || b.grpc != "/run/c.sock" || !b.debug {
			t.Errorf("stdin of %d bytes: %+v", len(stdin), b)
		}
		if want := map[bool]string{true: "/shims"}[len(stdin) > 0]; b.shimCgroup != want {
			t.Errorf("cgroup of the shim %q, want %q", b.shimCgroup, want)
		}
		answer, err := b.answer("unix:///run/s/1")
		if want := `{"version":3,"address":"unix:///run/s/1","protocol":"ttrpc"}`; err != nil || string(answer) != want {
			t.Errorf("answer %s, %v", answer, err)
		}
	}
}

func TestOptionsOfTheCRIPluginAreLeftToTheShim(t *testing.T) {
	sent := marshal(t, &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: marshal(t, &runtimeoptions.Options{ConfigBody: []byte("ShimCgroup = '/shims'")})})
	p := bootstrapParams(t, "")
	p.Extensions = []*bootapi.Extension{{Value: &anypb.Any{TypeUrl: "runtimeoptions.v1.Options", Value: marshal(t, &runtimeoptions.Options{ConfigBody: []byte("ShimCgroup = '/shims'")})}}}
	for dialect, stdin := range map[string][]byte{"newer": marshal(t, p), "older": sent} {
		if b := readBootstrap(args{namespace: "ns", id: "c1"}, stdin); !bytes.Equal(b.otherOptions, sent) {
			t.Errorf("%s containerd: the shim gets %q, sent was %q", dialect, b.otherOptions, sent)
		}
	}
}

func TestNewerContainerdIsUnderstoodByStandardInput(t *testing.T) {
	b := readBootstrap(args{namespace: "ns", id: "c1"}, marshal(t, bootstrapParams(t, "")))
	if !b.protobuf || b.grpc != "/run/c.sock" {
		t.Errorf("%+v", b)
	}
	if b := readBootstrap(args{namespace: "ns", id: "another"}, marshal(t, bootstrapParams(t, ""))); b.protobuf {
		t.Error("parameters of another container were taken")
	}
}

func TestSilentStandardInputIsNotWaitedFor(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	began := time.Now()
	if data, err := readStdin(null); err != nil || len(data) != 0 || time.Since(began) > time.Second {
		t.Errorf("%q, %v after %v", data, err, time.Since(began))
	}
}

func TestAddressIsContainerds(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), "ns")
	want, err := shim.CreateSocketAddress(ctx, "/run/containerd/s", "/run/c.sock", "pod", false)
	if err != nil {
		t.Fatal(err)
	}
	if got := addressOf("", "/run/c.sock", "ns", "pod"); got != want {
		t.Errorf("address %s, containerd's is %s", got, want)
	}
}

func TestGroupIsThatOfThePod(t *testing.T) {
	for config, want := range map[string]string{
		`{}`: "c1",
		`{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`:                                                                "pod",
		`{"process":{"args":["x"]},"annotations":{"io.kubernetes.cri.sandbox-id":"pod","io.containerd.runc.v2.group":"group"}}`: "group",
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := readContainer(dir, "c1"); err != nil || got.group != want {
			t.Errorf("%s: group %q, %v, want %s", config, got.group, err, want)
		}
	}
	if _, err := readContainer(t.TempDir(), "c1"); err == nil {
		t.Error("a bundle without config.json has a group")
	}
}

func TestParametersAreThoseOfTheShim(t *testing.T) {
	ours, theirs := reflect.TypeFor[params](), reflect.TypeFor[seedpool.ShimParams]()
	for i := range max(ours.NumField(), theirs.NumField()) {
		if a, b := ours.Field(i), theirs.Field(i); a.Name != b.Name || a.Type != b.Type || a.Tag != b.Tag {
			t.Errorf("field %d: %s %s %s, the shim's is %s %s %s", i, a.Name, a.Type, a.Tag, b.Name, b.Type, b.Tag)
		}
	}
}

func TestVersionIsSprouts(t *testing.T) {
	if version != seedpool.Version {
		t.Errorf("the launcher says %s, sprout is %s", version, seedpool.Version)
	}
}
