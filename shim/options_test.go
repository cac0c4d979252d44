package shim

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool"
)

func TestOptionsOfTheCRIPluginAreReadAsRuncs(t *testing.T) {
	const text = "SystemdCgroup = true\nRoot = \"/run/elsewhere\"\nBinaryName = \"crun\"\n"
	file := filepath.Join(t.TempDir(), "options.toml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	want := &options.Options{SystemdCgroup: true, Root: "/run/elsewhere", BinaryName: "crun"}
	for name, given := range map[string]proto.Message{
		"text": &runtimeoptions.Options{ConfigBody: []byte(text)},
		"file": &runtimeoptions.Options{ConfigPath: file},
		"runc": want,
	} {
		packed, err := typeurl.MarshalAnyToProto(given)
		if err != nil {
			t.Fatal(err)
		}
		got, err := runcOptions(packed)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		opts := new(options.Options)
		if err := typeurl.UnmarshalTo(got, opts); err != nil || !proto.Equal(opts, want) {
			t.Errorf("%s: %v, %v", name, opts, err)
		}
	}
	if got, err := runcOptions(nil); got != nil || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	packed, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte("SystemdCgroup = 7")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := runcOptions(packed); err == nil {
		t.Error("a number for a truth value was accepted")
	}
}

func TestCgroupOfTheShimIsAmongTheOptionsOfTheCRIPlugin(t *testing.T) {
	for text, want := range map[string]string{"Root = '/run/elsewhere'\nShimCgroup = '/shims'\n": "/shims", "Root = '/run/elsewhere'": ""} {
		packed, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte(text)})
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := proto.Marshal(packed)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := shimCgroup(seedpool.ShimParams{Options: encoded}); err != nil || got != want {
			t.Errorf("%q: %q, %v, want %q", text, got, err, want)
		}
	}
	if got, err := shimCgroup(seedpool.ShimParams{Cgroup: "/shims"}); err != nil || got != "/shims" {
		t.Errorf("told by the launcher: %q, %v", got, err)
	}
	if _, err := shimCgroup(seedpool.ShimParams{Options: []byte("x")}); err == nil {
		t.Error("bytes that are no options were accepted")
	}
}
