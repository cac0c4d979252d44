package shim

import (
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	capChown  = 1 << 0
	capSetGID = 1 << 6
	capSetUID = 1 << 7
	capAdmin  = 1 << 21
)

func TestThreadsMayHaveLessThanTheSpecGrantsButNothingMore(t *testing.T) {
	root := &specs.Spec{Process: &specs.Process{
		NoNewPrivileges: true,
		Capabilities: &specs.LinuxCapabilities{
			Bounding: []string{"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"}, Permitted: []string{"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"},
			Effective: []string{"CAP_CHOWN", "CAP_SETUID", "CAP_SETGID"},
		},
		User: specs.User{AdditionalGids: []uint32{0, 10}},
	}}
	user := &specs.Spec{
		Process: &specs.Process{
			User:         specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{4}},
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN"}},
		},
		Linux: &specs.Linux{Seccomp: &specs.LinuxSeccomp{}},
	}
	ids := func(id int) [4]int { return [4]int{id, id, id, id} }
	full := uint64(capChown | capSetUID | capSetGID)
	asRoot := linux.Creds{Groups: []int{0, 10}, CapBnd: full, CapPrm: full, CapEff: full, NoNewPrivs: true}
	asUser := linux.Creds{Uids: ids(1000), Gids: ids(1000), Groups: []int{4, 1000}, CapBnd: capChown, Seccomp: 2}
	with := func(c linux.Creds, change func(*linux.Creds)) linux.Creds {
		c.Groups = slices.Clone(c.Groups)
		change(&c)
		return c
	}
	for _, c := range []struct {
		name  string
		spec  *specs.Spec
		creds linux.Creds
		// says is what the excess names; empty: there is none.
		says string
	}{
		{"root as granted", root, asRoot, ""},
		{"worker that root made another user", root, linux.Creds{Uids: ids(33), Gids: ids(33), Groups: []int{33}, CapBnd: full, NoNewPrivs: true}, ""},
		{"capability beyond the grant", root, with(asRoot, func(c *linux.Creds) { c.CapEff |= capAdmin }), "effective"},
		{"bounding set beyond the grant", root, with(asRoot, func(c *linux.Creds) { c.CapBnd |= capAdmin }), "bounding"},
		{"ambient capability beyond the grant", root, with(asRoot, func(c *linux.Creds) { c.CapAmb = capAdmin }), "ambient"},
		{"inheritable capability beyond the grant", root, with(asRoot, func(c *linux.Creds) { c.CapInh = capAdmin }), "inheritable"},
		{"no_new_privs lost", root, with(asRoot, func(c *linux.Creds) { c.NoNewPrivs = false }), "no_new_privs"},
		{"user as granted", user, asUser, ""},
		{"user that is root", user, with(asUser, func(c *linux.Creds) { c.Uids = ids(0) }), "uids"},
		{"user with root saved", user, with(asUser, func(c *linux.Creds) { c.Uids[2] = 0 }), "uids"},
		{"group beyond the grant", user, with(asUser, func(c *linux.Creds) { c.Groups = append(c.Groups, 0) }), "groups"},
		{"primary group beyond the grant", user, with(asUser, func(c *linux.Creds) { c.Gids = ids(0) }), "gids"},
		{"bounding set in use", user, with(asUser, func(c *linux.Creds) { c.CapPrm = capChown }), "permitted"},
		{"seccomp filter lost", user, with(asUser, func(c *linux.Creds) { c.Seccomp = 0 }), "seccomp"},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, err := grantOf(c.spec)
			if err != nil {
				t.Fatal(err)
			}
			beyond := strings.Join(g.excess(c.creds), ", ")
			if (c.says == "") != (beyond == "") || !strings.Contains(beyond, c.says) {
				t.Errorf("excess %q, want it to name %q", beyond, c.says)
			}
		})
	}
}

func TestSecurityLabelIsThatOfTheSpecOrOurs(t *testing.T) {
	const selinux = "system_u:system_r:container_t:s0:c1,c2"
	for _, c := range []struct {
		process specs.Process
		ours    string
		want    string
	}{
		{specs.Process{}, "", ""},
		{specs.Process{}, "unconfined", "unconfined"},
		{specs.Process{}, "system_u:system_r:container_runtime_t:s0", "system_u:system_r:container_runtime_t:s0"},
		{specs.Process{ApparmorProfile: "unconfined"}, "", ""},
		{specs.Process{ApparmorProfile: "unconfined"}, "containerd", "unconfined"},
		{specs.Process{ApparmorProfile: "cri-containerd.apparmor.d"}, "", "cri-containerd.apparmor.d"}, // nobody has it: cold, where runc says so
		{specs.Process{ApparmorProfile: "cri-containerd.apparmor.d"}, "unconfined", "cri-containerd.apparmor.d"},
		{specs.Process{SelinuxLabel: selinux}, "", selinux},
	} {
		if got := labelOf(&c.process, c.ours); got != c.want {
			t.Errorf("%+v with ours %q: %q, want %q", c.process, c.ours, got, c.want)
		}
	}
	for said, want := range map[string]string{
		"unconfined\n": "unconfined", "docker-default (enforce)\n": "docker-default", "one (two) (complain)": "one (two)", selinux + "\x00": selinux, "": "",
	} {
		if got := labelIn([]byte(said)); got != want {
			t.Errorf("of %q: %q, want %q", said, got, want)
		}
	}
}

func TestCapabilityThatNobodyKnowsIsAnError(t *testing.T) {
	spec := &specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_FLY"}}}}
	if _, err := grantOf(spec); err == nil || !strings.Contains(err.Error(), "CAP_FLY") {
		t.Errorf("grantOf: %v, want CAP_FLY named", err)
	}
}

func TestProcessInAHostNamespaceIsRefused(t *testing.T) {
	b := newBed(t, answering)
	b.pool.alter = func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(s.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == "ipc" })
	}
	rec := b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw bind-failed", "restore bind-failed")
	if detail := rec.start.Fallbacks[0].Detail; !strings.Contains(detail, "ipc namespace") {
		t.Errorf("detail %q does not name the namespace", detail)
	}
}
