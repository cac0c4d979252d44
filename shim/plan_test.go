package shim

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// plain is a request that nothing stands in the way of.
func plain(change func(*request)) request {
	r := request{upperdir: "/var/lib/sprout/snapshots/snapshots/7/fs"}
	if change != nil {
		change(&r)
	}
	return r
}

func TestPlanTriesEveryRungThatFitsAndSaysWhyNot(t *testing.T) {
	seed := func(spares uint32) *api.LookupResponse {
		return &api.LookupResponse{Seed: &api.SeedInfo{Id: "s1", Name: "shop"}, Spares: spares}
	}
	booted := func(spares uint32) *api.LookupResponse {
		found := seed(spares)
		found.Seed.Mode = seedpool.ModePrestart
		return found
	}
	forks := func(found *api.LookupResponse, unforkable string) *api.LookupResponse {
		found.Forks, found.Template, found.Unforkable = true, true, unforkable
		return found
	}
	without := func(found *api.LookupResponse) *api.LookupResponse {
		found.Template = false
		return found
	}
	none := func(reason seedpool.Reason) *api.LookupResponse { return &api.LookupResponse{Reason: string(reason)} }
	try := func(rung seedpool.Rung) step { return step{rung: rung} }
	pass := func(rung seedpool.Rung, reason seedpool.Reason, detail string) step {
		return step{rung: rung, reason: reason, detail: detail}
	}
	onlyCold := func(reason seedpool.Reason, detail string) []step {
		return []step{pass(seedpool.RungThaw, reason, detail), pass(seedpool.RungRestore, reason, detail), try(seedpool.RungCold)}
	}
	restoreFirst := func(reason seedpool.Reason, detail string) []step {
		return []step{pass(seedpool.RungThaw, reason, detail), try(seedpool.RungRestore), try(seedpool.RungCold)}
	}
	for _, c := range []struct {
		name  string
		req   request
		found *api.LookupResponse
		want  []step
	}{
		{
			"seed with a spare", plain(nil), seed(1),
			[]step{try(seedpool.RungThaw), try(seedpool.RungRestore), try(seedpool.RungCold)},
		},
		{
			"seed that may be cloned", plain(nil), forks(seed(0), ""),
			[]step{pass(seedpool.RungThaw, seedpool.ReasonNoSpare, "shop"), try(seedpool.RungFork), try(seedpool.RungRestore), try(seedpool.RungCold)},
		},
		{
			"seed that cannot be cloned", plain(nil), forks(seed(1), "children: 4"),
			[]step{
				try(seedpool.RungThaw), pass(seedpool.RungFork, seedpool.ReasonNotForkable, "children: 4"), try(seedpool.RungRestore), try(seedpool.RungCold),
			},
		},
		{
			"seed without a template", plain(nil), without(forks(seed(0), "")),
			[]step{
				pass(seedpool.RungThaw, seedpool.ReasonNoSpare, "shop"), pass(seedpool.RungFork, seedpool.ReasonNoTemplate, "shop"),
				try(seedpool.RungRestore), try(seedpool.RungCold),
			},
		},
		{
			"host network of a clone", plain(func(r *request) { r.netns = hostNamespace("network") }), forks(seed(1), ""),
			[]step{pass(seedpool.RungThaw, seedpool.ReasonHostNetwork, ""), try(seedpool.RungFork), try(seedpool.RungRestore), try(seedpool.RungCold)},
		},
		{
			"seed of another kernel", plain(nil), &api.LookupResponse{Reason: string(seedpool.ReasonSeedStale), Detail: "shop: kernel was 6.1"},
			onlyCold(seedpool.ReasonSeedStale, "shop: kernel was 6.1"),
		},
		{
			"seed whose spares are booted", plain(nil), booted(1),
			[]step{try(seedpool.RungThaw), pass(seedpool.RungRestore, seedpool.ReasonPrestart, "shop"), try(seedpool.RungCold)},
		},
		{
			"seed whose spares are booted, without one", plain(nil), booted(0),
			[]step{pass(seedpool.RungThaw, seedpool.ReasonNoSpare, "shop"), pass(seedpool.RungRestore, seedpool.ReasonPrestart, "shop"), try(seedpool.RungCold)},
		},
		{"seed without a spare", plain(nil), seed(0), restoreFirst(seedpool.ReasonNoSpare, "shop")},
		{"host network", plain(func(r *request) { r.netns = hostNamespace("network") }), seed(1), restoreFirst(seedpool.ReasonHostNetwork, "")},
		{
			"network namespace by path", plain(func(r *request) { r.netns = "/run/netns/a" }), seed(1),
			restoreFirst(seedpool.ReasonNetnsPath, "/run/netns/a"),
		},
		{
			"pod's IPC namespace", plain(func(r *request) { r.ipcns = "/proc/9/ns/ipc" }), seed(1),
			restoreFirst(seedpool.ReasonSharedNamespace, "/proc/9/ns/ipc"),
		},
		{
			"the host's IPC and UTS namespaces", plain(func(r *request) { r.ipcns, r.utsns = hostNamespace("ipc"), hostNamespace("uts") }), seed(1),
			restoreFirst(seedpool.ReasonSharedNamespace, hostNamespace("ipc")+" "+hostNamespace("uts")),
		},
		{
			"pod's namespaces, and a seed that keeps its own", plain(func(r *request) { r.netns, r.ipcns = "/run/netns/a", "/proc/9/ns/ipc" }),
			forks(&api.LookupResponse{Seed: &api.SeedInfo{Name: "shop", OwnNamespaces: true}, Spares: 1}, ""),
			[]step{
				pass(seedpool.RungThaw, seedpool.ReasonNetnsPath, "/run/netns/a"), pass(seedpool.RungFork, seedpool.ReasonOwnNamespaces, "shop"),
				pass(seedpool.RungRestore, seedpool.ReasonOwnNamespaces, "shop"), try(seedpool.RungCold),
			},
		},
		{"terminal", plain(func(r *request) { r.terminal = true }), nil, onlyCold(seedpool.ReasonTTY, "")},
		{"restore of a checkpoint", plain(func(r *request) { r.checkpoint = true }), nil, onlyCold(seedpool.ReasonCheckpoint, "")},
		{"user namespace", plain(func(r *request) { r.userNamespace = true }), nil, onlyCold(seedpool.ReasonUserNamespace, "")},
		{
			"shared namespace", plain(func(r *request) { r.shared = "ipc /proc/9/ns/ipc" }), nil,
			onlyCold(seedpool.ReasonSharedNamespace, "ipc /proc/9/ns/ipc"),
		},
		{"systemd's cgroup driver", plain(func(r *request) { r.systemd = true }), nil, onlyCold(seedpool.ReasonSystemdCgroup, "")},
		{
			"root that is no overlay", plain(func(r *request) { r.upperdir = "" }), nil,
			onlyCold(seedpool.ReasonNotOurSnapshotter, "root is no overlay"),
		},
		{"terminal beats what sproutd has", plain(func(r *request) { r.terminal = true }), seed(3), onlyCold(seedpool.ReasonTTY, "")},
		{"no seed", plain(nil), none(seedpool.ReasonNoSeed), onlyCold(seedpool.ReasonNoSeed, "")},
		{"overlay of another snapshotter", plain(nil), none(seedpool.ReasonNotOurSnapshotter), onlyCold(seedpool.ReasonNotOurSnapshotter, "")},
		{"container that was written to", plain(nil), none(seedpool.ReasonUpperNotEmpty), onlyCold(seedpool.ReasonUpperNotEmpty, "")},
		{"sproutd away", plain(nil), none(seedpool.ReasonSproutdDown), onlyCold(seedpool.ReasonSproutdDown, "")},
		{
			"key that differs, with the fields", plain(nil),
			&api.LookupResponse{Reason: string(seedpool.ReasonKeyDiffers), Nearest: "shop", Differs: []string{"args", "env PORT"}},
			onlyCold(seedpool.ReasonKeyDiffers, "shop differs in args, env PORT"),
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, plan(c.req, c.found), cmp.AllowUnexported(step{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestRequestKnowsWhichNamespacesTheContainerShares(t *testing.T) {
	ns := func(kinds ...specs.LinuxNamespace) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: kinds}}
	}
	own := []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}}
	with := func(more ...specs.LinuxNamespace) *specs.Spec {
		return ns(append(append([]specs.LinuxNamespace(nil), own...), more...)...)
	}
	for _, c := range []struct {
		name string
		spec *specs.Spec
		want request
	}{
		{"its own of each kind", with(specs.LinuxNamespace{Type: "network"}, specs.LinuxNamespace{Type: "cgroup"}), request{}},
		{"host network", with(), request{netns: hostNamespace("network")}},
		{"network by path", with(specs.LinuxNamespace{Type: "network", Path: "/n"}), request{netns: "/n"}},
		{"user namespace", with(specs.LinuxNamespace{Type: "network"}, specs.LinuxNamespace{Type: "user"}), request{userNamespace: true}},
		{
			"cgroup namespace by path",
			with(specs.LinuxNamespace{Type: "network"}, specs.LinuxNamespace{Type: "cgroup", Path: "/c"}),
			request{shared: "cgroup /c"},
		},
		{
			"host pid", ns(own[1], own[2], own[3], specs.LinuxNamespace{Type: "network"}),
			request{shared: "pid of the host"},
		},
		{
			"pod's ipc",
			ns(own[0], specs.LinuxNamespace{Type: "ipc", Path: "/proc/9/ns/ipc"}, own[2], own[3], specs.LinuxNamespace{Type: "network", Path: "/n"}),
			request{ipcns: "/proc/9/ns/ipc", netns: "/n"},
		},
		{
			"host's ipc and uts", ns(own[0], own[3], specs.LinuxNamespace{Type: "network"}),
			request{ipcns: hostNamespace("ipc"), utsns: hostNamespace("uts")},
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			var got request
			got.readNamespaces(c.spec)
			if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(request{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestUpperDirectoryIsFoundAmongOverlayOptions(t *testing.T) {
	for _, c := range []struct {
		options []string
		want    string
	}{
		{[]string{"index=off", "workdir=/s/7/work", "upperdir=/s/7/fs", "lowerdir=/s/1/fs"}, "/s/7/fs"},
		{[]string{"upperdir=/s//7/fs/"}, "/s/7/fs"},
		{[]string{"lowerdir=/s/1/fs:/s/2/fs"}, ""},
		{nil, ""},
	} {
		if got := upperOf(c.options); got != c.want {
			t.Errorf("upperOf(%q) = %q, want %q", c.options, got, c.want)
		}
	}
}
