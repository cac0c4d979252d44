package bake

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"
)

func someSpec() *specs.Spec {
	limit := int64(1 << 30)
	return &specs.Spec{
		Process:  &specs.Process{Args: []string{"/app"}, Env: []string{"TOKEN=geheim"}},
		Root:     &specs.Root{Path: "/elsewhere/rootfs", Readonly: true},
		Hostname: "asked",
		Hooks:    &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/true"}}},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/etc/hosts", Type: "bind", Source: "/tmp/hosts"},
			{Destination: "/etc/resolv.conf/", Type: "bind", Source: "/tmp/resolv.conf"},
			{Destination: "/data", Type: "bind", Source: "/tmp/data"},
			{Destination: "/data/keep", Type: "bind", Source: "/tmp/keep"},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/default/c1",
			Resources:   &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}},
			Namespaces: []specs.LinuxNamespace{
				{Type: specs.PIDNamespace},
				{Type: specs.IPCNamespace},
				{Type: specs.UTSNamespace},
				{Type: specs.MountNamespace},
				{Type: specs.NetworkNamespace, Path: "/var/run/netns/pod"},
			},
		},
	}
}

func TestSpecIsAdaptedForTheBake(t *testing.T) {
	asked := someSpec()
	got, err := Adapt(asked, []string{"/data/"}, "/sprout/bakes/b1")
	if err != nil {
		t.Fatal(err)
	}
	want := someSpec()
	want.Root.Path = "rootfs"
	want.Hooks = nil
	want.Mounts = []specs.Mount{want.Mounts[0], want.Mounts[4], identityMount}
	want.Linux.CgroupsPath = "/sprout/bakes/b1"
	want.Linux.Namespaces = []specs.LinuxNamespace{
		{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UTSNamespace}, {Type: specs.NetworkNamespace},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(someSpec(), asked); diff != "" {
		t.Errorf("the caller's spec was changed: %s", diff)
	}
}

func TestIdentityGoesWhereNothingElseIs(t *testing.T) {
	for name, c := range map[string]struct {
		mount, late string
		want        bool
	}{
		"free":             {"/run", "/data", true},
		"the user's":       {"/run/sprout/", "", false},
		"late itself":      {"/run", "/run/sprout", false},
		"below a late one": {"/data", "/run/", false},
	} {
		asked := someSpec()
		asked.Mounts = append(asked.Mounts, specs.Mount{Destination: c.mount, Type: "tmpfs", Source: "tmpfs"})
		adapted, err := Adapt(asked, []string{c.late}, "/x")
		if err != nil {
			t.Fatal(err)
		}
		if got := HasIdentity(adapted); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestAppOfAPodIsBakedWithNamespacesAndMemoryOfItsOwn(t *testing.T) {
	asked := someSpec()
	asked.Linux.Namespaces[1].Path, asked.Linux.Namespaces[2].Path = "/proc/9/ns/ipc", "/proc/9/ns/uts"
	asked.Mounts = append(asked.Mounts, specs.Mount{Destination: "/dev/shm/", Type: "bind", Source: "/run/pod/shm", Options: []string{"rbind"}})
	got, err := Adapt(asked, nil, "/x")
	if err != nil {
		t.Fatal(err)
	}
	for _, ns := range got.Linux.Namespaces {
		if ns.Path != "" {
			t.Errorf("%s namespace of the pod", ns.Type)
		}
	}
	if !slices.ContainsFunc(got.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/shm" && m.Type == "tmpfs" }) {
		t.Errorf("mounts %v", got.Mounts)
	}
	if m := asked.Mounts[len(asked.Mounts)-1]; m.Type != "bind" {
		t.Errorf("the caller's spec was changed: %v", m)
	}
}

func TestHostNetworkIsReplacedByAFreshOne(t *testing.T) {
	asked := someSpec()
	asked.Linux.Namespaces = asked.Linux.Namespaces[:4]
	adapted, err := Adapt(asked, nil, "/x")
	if err != nil {
		t.Fatal(err)
	}
	booted, err := withNetNS(adapted, "/proc/1/fd/9")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := booted.Linux.Namespaces[4], (specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: "/proc/1/fd/9"}); got != want {
		t.Errorf("network namespace %v, want %v", got, want)
	}
	if path := adapted.Linux.Namespaces[4].Path; path != "" {
		t.Errorf("the spec of the seed names the namespace %s of the bake", path)
	}
}

func TestSpecThatNoImageCarriesIsRefused(t *testing.T) {
	for reason, change := range map[string]func(*specs.Spec){
		"terminal":       func(s *specs.Spec) { s.Process.Terminal = true },
		"lacks":          func(s *specs.Spec) { s.Root = nil },
		"shares":         func(s *specs.Spec) { s.Linux.RootfsPropagation = "rshared" },
		"user namespace": func(s *specs.Spec) { s.Linux.Namespaces[0].Type = specs.UserNamespace },
		"joins the pid":  func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/pid" },
		"host's pid":     func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] },
		"host's mount":   func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:1] },
	} {
		spec := someSpec()
		change(spec)
		if _, err := Adapt(spec, nil, "/x"); err == nil || !strings.Contains(err.Error(), reason) {
			t.Errorf("%s: error %v", reason, err)
		}
	}
	if _, err := Adapt(nil, nil, "/x"); err == nil {
		t.Error("no spec at all was accepted")
	}
}
