package shim

import (
	"fmt"
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
	// shared names a namespace that the container shares with the host or with another container; empty: none but perhaps the network.
	shared string
	// userNamespace: the container has a user namespace, or joins one.
	userNamespace bool
	// hostNetwork: it uses the host's network; netns: it joins the one at this path; neither: it gets one of its own.
	hostNetwork bool
	netns       string
}

// hostNetns is what a restore is told when the container uses the host's network.
const hostNetns = "/proc/1/ns/net"

// joins is the network namespace that an instance must be restored in; empty: a new one.
func (r request) joins() string {
	if r.hostNetwork {
		return hostNetns
	}
	return r.netns
}

// readNamespaces takes from the spec which namespaces the container shares.
func (r *request) readNamespaces(spec *specs.Spec) {
	own := make(map[specs.LinuxNamespaceType]bool)
	for _, ns := range spec.Linux.Namespaces {
		own[ns.Type] = true
		switch {
		case ns.Type == specs.UserNamespace:
			r.userNamespace = true
		case ns.Type == specs.NetworkNamespace:
			r.netns = ns.Path
		case ns.Path != "" && r.shared == "":
			r.shared = fmt.Sprintf("%s %s", ns.Type, ns.Path)
		}
	}
	for _, kind := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !own[kind] && r.shared == "" {
			r.shared = fmt.Sprintf("%s of the host", kind)
		}
	}
	r.hostNetwork = !own[specs.NetworkNamespace]
}

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
	case req.hostNetwork:
		thaw.pass(seedpool.ReasonHostNetwork, "")
	case req.netns != "":
		thaw.pass(seedpool.ReasonNetnsPath, req.netns)
	case found.Spares == 0:
		thaw.pass(seedpool.ReasonNoSpare, found.Seed.Name)
	}
	if found == nil || !found.Forks {
		return []step{thaw, restore, {rung: seedpool.RungCold}}
	}
	if found.Unforkable != "" {
		fork.pass(seedpool.ReasonNotForkable, found.Unforkable)
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
	return seedpool.Reason(found.Reason), ""
}
