package shim

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// request is all that plan wants to know of a CreateTask: facts of the request and its spec, read once.
type request struct {
	// terminal, checkpoint and systemd: asked for a terminal, for the restore of a checkpoint, for systemd's cgroup driver.
	terminal, checkpoint, systemd bool
	// upperdir is the writable layer of the container's overlay; empty: its root is no overlay of containerd's making.
	upperdir string
	// shared names a namespace that the container shares with the host or with another container, and that no instance could join; empty: none.
	shared string
	// userNamespace: the container has a user namespace, or joins one.
	userNamespace bool
	// unkeyed says why it has no key; empty: it has one.
	unkeyed string
	// netns, ipcns and utsns are the namespaces that it joins, hostNamespace if it has the host's; empty: it gets one of its own.
	netns, ipcns, utsns string
}

// hostNamespace is what a restore is told when the container uses one of the host's: that of whoever starts it, which is ours (resemble).
func hostNamespace(kind specs.LinuxNamespaceType) string {
	return namespaceFile(os.Getpid(), procNamespaces[kind])
}

// joins are the namespaces that an instance is made in, by kind.
func (r *request) joins() map[specs.LinuxNamespaceType]*string {
	return map[specs.LinuxNamespaceType]*string{specs.NetworkNamespace: &r.netns, specs.IPCNamespace: &r.ipcns, specs.UTSNamespace: &r.utsns}
}

// readNamespaces takes from the spec which namespaces the container shares.
func (r *request) readNamespaces(spec *specs.Spec) {
	own, joins := make(map[specs.LinuxNamespaceType]bool), r.joins()
	for _, ns := range spec.Linux.Namespaces {
		own[ns.Type] = true
		path := joins[ns.Type]
		switch {
		case ns.Type == specs.UserNamespace:
			r.userNamespace = true
		case path != nil:
			*path = ns.Path
		case ns.Path != "" && r.shared == "":
			r.shared = fmt.Sprintf("%s %s", ns.Type, ns.Path)
		}
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace} {
		if !own[kind] && r.shared == "" {
			r.shared = fmt.Sprintf("%s of the host", kind)
		}
	}
	for kind, path := range joins {
		if !own[kind] {
			*path = hostNamespace(kind)
		}
	}
}

// hostNetwork says whether it uses the host's network.
func (r *request) hostNetwork() bool { return r.netns == hostNamespace(specs.NetworkNamespace) }

// joined are the IPC and UTS namespaces that it does not have for itself; empty: none.
func (r *request) joined() string { return strings.TrimSpace(r.ipcns + " " + r.utsns) }

// upperOf finds the writable layer among the options of an overlay mount.
func upperOf(options []string) string {
	for _, o := range options {
		if dir, ok := strings.CutPrefix(o, "upperdir="); ok {
			return filepath.Clean(dir)
		}
	}
	return ""
}

// step is one rung of a start: to be tried, or, with a reason, passed over.
type step struct {
	rung   seedpool.Rung
	reason seedpool.Reason
	detail string
}

func (s *step) pass(reason seedpool.Reason, detail string) { s.reason, s.detail = reason, detail }

// plan orders the rungs of one start, fastest first; the last is cold and is always tried. It is pure: the same request and the same
// answer of sproutd give the same steps. found is nil when sproutd was not asked, which refusal justifies.
func plan(req request, found *api.LookupResponse) []step {
	thaw, fork, restore := step{rung: seedpool.RungThaw}, step{rung: seedpool.RungFork}, step{rung: seedpool.RungRestore}
	reason, detail := req.refusal()
	if reason == "" {
		reason, detail = missing(found)
	}
	switch {
	case reason != "":
		thaw.pass(reason, detail)
		restore.pass(reason, detail)
	case req.hostNetwork():
		thaw.pass(seedpool.ReasonHostNetwork, "")
	case req.netns != "":
		thaw.pass(seedpool.ReasonNetnsPath, req.netns)
	case req.joined() != "":
		thaw.pass(seedpool.ReasonSharedNamespace, req.joined())
	case found.Spares == 0:
		thaw.pass(seedpool.ReasonNoSpare, found.Seed.Name)
	}
	if found.GetSeed().GetMode() == seedpool.ModePrestart {
		restore.pass(seedpool.ReasonPrestart, found.Seed.Name)
	}
	switch {
	case found == nil:
	case found.Unforkable != "":
		fork.pass(seedpool.ReasonNotForkable, found.Unforkable)
	case !found.Template:
		fork.pass(seedpool.ReasonNoTemplate, found.GetSeed().GetName())
	}
	if found.GetSeed().GetOwnNamespaces() && req.joined() != "" {
		fork.pass(seedpool.ReasonOwnNamespaces, found.Seed.Name)
		restore.pass(seedpool.ReasonOwnNamespaces, found.Seed.Name)
	}
	if found == nil || !found.Forks {
		return []step{thaw, restore, {rung: seedpool.RungCold}}
	}
	return []step{thaw, fork, restore, {rung: seedpool.RungCold}}
}

// first is the rung that a plan begins with.
func first(steps []step) seedpool.Rung {
	for _, s := range steps {
		if s.reason == "" {
			return s.rung
		}
	}
	return seedpool.RungCold
}

// refusal says why no seed could serve the request, whatever sproutd has; empty: ask sproutd.
func (r request) refusal() (reason seedpool.Reason, detail string) {
	switch {
	case r.terminal:
		return seedpool.ReasonTTY, ""
	case r.checkpoint:
		return seedpool.ReasonCheckpoint, ""
	case r.userNamespace:
		return seedpool.ReasonUserNamespace, ""
	case r.shared != "":
		return seedpool.ReasonSharedNamespace, r.shared
	case r.systemd:
		return seedpool.ReasonSystemdCgroup, ""
	case r.unkeyed != "":
		return seedpool.ReasonKeyFailed, r.unkeyed
	case r.upperdir == "":
		return seedpool.ReasonNotOurSnapshotter, "root is no overlay"
	}
	return "", ""
}

// missing says why sproutd's answer gives no seed to wake; empty: there is one.
func missing(found *api.LookupResponse) (reason seedpool.Reason, detail string) {
	if found.Seed != nil {
		return "", ""
	}
	if found.Nearest != "" {
		return seedpool.Reason(found.Reason), fmt.Sprintf("%s differs in %s", found.Nearest, strings.Join(found.Differs, ", "))
	}
	return seedpool.Reason(found.Reason), found.Detail
}
