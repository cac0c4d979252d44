package seedpool

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// handling is what becomes of a field of a spec when a container is woken.
type handling string

const (
	// inKey: the app could have seen it. A container is not woken from a seed that was baked with another value.
	inKey handling = "key"
	// boundLate: each instance gets its container's, whatever the seed was baked with. The version of the specification no app can see.
	boundLate handling = "late"
	// refused: CRIU keeps nothing of it, or it belongs to another system: a container that has it starts cold.
	refused handling = "refused"
	// eachField: an object each of whose fields has a line of its own.
	eachField handling = "each field"
)

// handlings has a line for each field of the objects that are handled field by field. What lies deeper is handled like the field above it, unless it has a line. A
// field without one is new: nobody has said whether an instance could be given it, and it is refused.
var handlings = map[string]handling{
	"ociVersion":  boundLate,
	"hostname":    boundLate,
	"domainname":  boundLate,
	"annotations": boundLate,
	"hooks":       boundLate,
	"solaris":     refused,
	"windows":     refused,
	"vm":          refused,
	"zos":         refused,
	"freebsd":     refused,

	"root":          eachField,
	"root.path":     boundLate,
	"root.readonly": inKey,

	"mounts":             inKey,
	"mounts.uidMappings": refused,
	"mounts.gidMappings": refused,

	"process":                 eachField,
	"process.terminal":        inKey,
	"process.consoleSize":     inKey,
	"process.user":            inKey,
	"process.args":            inKey,
	"process.commandLine":     refused,
	"process.env":             inKey,
	"process.cwd":             inKey,
	"process.capabilities":    inKey,
	"process.rlimits":         inKey,
	"process.noNewPrivileges": inKey,
	"process.apparmorProfile": inKey,
	"process.oomScoreAdj":     boundLate,
	"process.scheduler":       refused,
	"process.selinuxLabel":    inKey,
	"process.ioPriority":      refused,
	"process.execCPUAffinity": inKey,

	"linux":                          eachField,
	"linux.uidMappings":              refused,
	"linux.gidMappings":              refused,
	"linux.sysctl":                   inKey,
	"linux.cgroupsPath":              boundLate,
	"linux.namespaces":               inKey,
	"linux.devices":                  inKey,
	"linux.netDevices":               refused,
	"linux.seccomp":                  inKey,
	"linux.seccomp.listenerPath":     refused,
	"linux.seccomp.listenerMetadata": refused,
	"linux.rootfsPropagation":        inKey,
	"linux.maskedPaths":              inKey,
	"linux.readonlyPaths":            inKey,
	"linux.mountLabel":               refused,
	"linux.intelRdt":                 refused,
	"linux.memoryPolicy":             refused,
	"linux.personality":              inKey,
	"linux.timeOffsets":              refused,

	"linux.resources":                eachField,
	"linux.resources.devices":        inKey,
	"linux.resources.memory":         inKey,
	"linux.resources.cpu":            inKey,
	"linux.resources.pids":           inKey,
	"linux.resources.blockIO":        inKey,
	"linux.resources.hugepageLimits": inKey,
	"linux.resources.network":        inKey,
	"linux.resources.rdma":           inKey,
	"linux.resources.unified":        inKey,
}

// namespaceKinds are the kinds of namespaces that a container may have; a user namespace has a refusal of its own.
var namespaceKinds = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.CgroupNamespace, specs.UserNamespace,
}

// DecodeSpec decodes a spec. A field that is not in the version of the specification that we know is an error: it would be lost, and with it what the container is
// to be.
func DecodeSpec(data []byte) (*specs.Spec, error) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	spec := new(specs.Spec)
	if err := d.Decode(spec); err != nil {
		return nil, fmt.Errorf("read spec: %w", err)
	}
	return spec, nil
}

// refuseFields names the first field below prefix that no woken container could have.
func refuseFields(prefix string, tree map[string]any) error {
	parent := strings.TrimSuffix(prefix, ".")
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		where := prefix + name
		h, known := handlings[where]
		switch {
		case h == refused:
			return fmt.Errorf("read spec: a woken container cannot have %s", where)
		case !known && (parent == "" || handlings[parent] == eachField):
			return fmt.Errorf("read spec: %s is a field that sprout does not know", where)
		}
		if err := refuseBelow(where, tree[name]); err != nil {
			return err
		}
	}
	return nil
}

func refuseBelow(where string, value any) error {
	switch v := value.(type) {
	case map[string]any:
		return refuseFields(where+".", v)
	case []any:
		for _, element := range v {
			if err := refuseBelow(where, element); err != nil {
				return err
			}
		}
	}
	return nil
}

// refuseNamespaces names a kind of namespace that no woken container could have.
func refuseNamespaces(namespaces []specs.LinuxNamespace) error {
	for _, ns := range namespaces {
		if !slices.Contains(namespaceKinds, ns.Type) {
			return fmt.Errorf("read spec: a woken container cannot have a namespace of kind %q", ns.Type)
		}
	}
	return nil
}
