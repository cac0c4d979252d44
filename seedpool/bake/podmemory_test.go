package bake

import (
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestPodMemoryIsBakedAlsoWhereItIsDeclaredLate(t *testing.T) {
	asked := &specs.Spec{
		Process: &specs.Process{},
		Root:    &specs.Root{},
		Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}}},
		Mounts:  []specs.Mount{{Destination: podMemory.Destination, Type: "bind", Source: "/pods/a/shm"}},
	}
	got, err := Adapt(asked, []string{podMemory.Destination}, "/c")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(got.Mounts, func(m specs.Mount) bool { return m.Destination == podMemory.Destination && m.Type == "tmpfs" }) {
		t.Errorf("an app would find no %s: %v", podMemory.Destination, got.Mounts)
	}
}
