package bake

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// lateFiles are bound anew into each instance: their mounts are not in the image.
var lateFiles = []string{"/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/dev/termination-log"}

// IdentityDir is where an instance finds out which one it is: a tmpfs of its own, empty when the app is baked.
const IdentityDir = "/run/sprout"

// identityMount is small: names, a few hundred random bytes, and late variables.
var identityMount = specs.Mount{
	Destination: IdentityDir, Type: "tmpfs", Source: "sprout", Options: []string{"nosuid", "nodev", "noexec", "mode=755", "size=1m"},
}

// HasIdentity says whether an app baked with this adapted spec has an IdentityDir of ours.
func HasIdentity(adapted *specs.Spec) bool {
	return slices.ContainsFunc(adapted.Mounts, func(m specs.Mount) bool {
		return m.Destination == IdentityDir && m.Type == identityMount.Type && m.Source == identityMount.Source
	})
}

// addIdentity adds it, unless a mount of the user's is at that place, or a late one would cover it.
func addIdentity(spec *specs.Spec, lateMounts []string) {
	taken := slices.ContainsFunc(spec.Mounts, func(m specs.Mount) bool { return path.Clean(m.Destination) == IdentityDir })
	covered := slices.ContainsFunc(lateMounts, func(late string) bool {
		late = path.Clean(late)
		return late == IdentityDir || late == path.Dir(IdentityDir)
	})
	if !taken && !covered {
		spec.Mounts = append(spec.Mounts, identityMount)
	}
}

// Adapt gives the spec under which the app is baked: its own copy, without what an instance gets later (late mounts, hooks), with
// IdentityDir, the cgroup of the bake and network, IPC and UTS namespaces of its own. The hostname and the resources stay as asked. A spec whose image
// could not be woken elsewhere is refused.
func Adapt(asked *specs.Spec, lateMounts []string, cgroup string) (*specs.Spec, error) {
	if err := refuse(asked); err != nil {
		return nil, err
	}
	spec, err := clone(asked)
	if err != nil {
		return nil, err
	}
	spec.Root.Path = "rootfs"
	spec.Hooks = nil
	spec.Linux.CgroupsPath = cgroup
	spec.Mounts = slices.DeleteFunc(spec.Mounts, func(m specs.Mount) bool { return isLate(m, lateMounts) })
	ownMemory(spec)
	addIdentity(spec, lateMounts)
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return slices.Contains(ownNamespaces, n.Type) })
	for _, kind := range ownNamespaces {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	return spec, nil
}

// isLate says whether a mount is not the app's while it is baked, since each instance gets its own.
func isLate(m specs.Mount, lateMounts []string) bool {
	return !IsPodMemory(m) && slices.ContainsFunc(slices.Concat(lateFiles, lateMounts), func(late string) bool {
		return path.Clean(m.Destination) == path.Clean(late)
	})
}

// ownNamespaces has an app while it is baked, whichever its instances are to join.
var ownNamespaces = []specs.LinuxNamespaceType{specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace}

// refuse names the part of a spec that no image can carry.
func refuse(spec *specs.Spec) error {
	switch {
	case spec == nil || spec.Process == nil || spec.Root == nil || spec.Linux == nil:
		return errors.New("the spec lacks process, root or linux")
	case spec.Process.Terminal:
		return errors.New("the spec asks for a terminal, which belongs to one instance only")
	case spec.Linux.RootfsPropagation == "shared" || spec.Linux.RootfsPropagation == "rshared":
		return errors.New("the spec shares its mounts with the host")
	}
	has := make(map[specs.LinuxNamespaceType]bool)
	for _, n := range spec.Linux.Namespaces {
		if n.Type == specs.UserNamespace {
			return errors.New("the spec has a user namespace")
		}
		if n.Path != "" && !slices.Contains(ownNamespaces, n.Type) {
			return fmt.Errorf("the spec joins the %s namespace %s", n.Type, n.Path)
		}
		has[n.Type] = true
	}
	for _, own := range []specs.LinuxNamespaceType{specs.PIDNamespace, specs.MountNamespace} {
		if !has[own] {
			return fmt.Errorf("the spec uses the host's %s namespace", own)
		}
	}
	return nil
}

// withNetNS gives a copy of an adapted spec that joins the network namespace at file.
func withNetNS(adapted *specs.Spec, file string) (*specs.Spec, error) {
	spec, err := clone(adapted)
	if err != nil {
		return nil, err
	}
	for i, n := range spec.Linux.Namespaces {
		if n.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = file
		}
	}
	return spec, nil
}

func clone(spec *specs.Spec) (*specs.Spec, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, fmt.Errorf("copy spec: %w", err)
	}
	var copied specs.Spec
	if err := json.Unmarshal(data, &copied); err != nil {
		return nil, fmt.Errorf("copy spec: %w", err)
	}
	return &copied, nil
}
