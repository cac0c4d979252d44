package seedpool

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
)

// tenantAnnotation is where containerd's CRI plugin writes the Kubernetes namespace of a pod. All pods of a node are in one namespace of containerd's, and the
// memory of one tenant's app must not wake as another's.
const tenantAnnotation = "io.kubernetes.cri.sandbox-namespace"

// partNames are the names under which the better known fields appear in a key; the others appear under their path in the spec.
var partNames = map[string]string{
	"process.args":            "args",
	"process.cwd":             "cwd",
	"process.user":            "user",
	"process.terminal":        "terminal",
	"process.capabilities":    "capabilities",
	"process.rlimits":         "rlimits",
	"process.noNewPrivileges": "noNewPrivileges",
	"process.apparmorProfile": "apparmor",
	"process.selinuxLabel":    "selinux",
	"root.readonly":           "readonlyRoot",
	"linux.namespaces":        "namespaces",
	"linux.devices":           "devices",
	"linux.seccomp":           "seccomp",
	"linux.sysctl":            "sysctl",
	"linux.personality":       "personality",
	"linux.maskedPaths":       "maskedPaths",
	"linux.readonlyPaths":     "readonlyPaths",
}

// lateMounts are bound anew into each instance, whatever the seed.
var lateMounts = map[string]bool{
	"/etc/resolv.conf":     true,
	"/etc/hosts":           true,
	"/etc/hostname":        true,
	"/dev/termination-log": true,
}

// KeyOf is what the app of a container with this spec could see, as digests. It is pure. Two specs with equal keys may be started from one seed; the image,
// the kernel and the like are added by sproutd. An error means that the spec asks for what no woken container could have, or cannot be compared, and the container
// must start cold.
func KeyOf(spec *specs.Spec) (*api.Key, error) {
	if spec == nil || spec.Process == nil || spec.Root == nil || spec.Linux == nil {
		return nil, errors.New("read spec: it lacks process, root or linux")
	}
	// Variables may be text that is not UTF-8; each is digested as it is.
	rest, process := *spec, *spec.Process
	process.Env, rest.Process = nil, &process
	tree, err := fields(&rest)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(refuseFields("", tree), refuseNamespaces(spec.Linux.Namespaces)); err != nil {
		return nil, err
	}
	delete(tree, "mounts") // each has a part of its own
	key := &api.Key{Parts: make(map[string]string), Env: envKey(spec.Process.Env)}
	if err := addParts(key.Parts, "", tree); err != nil {
		return nil, err
	}
	if tenant, ok := spec.Annotations[tenantAnnotation]; ok {
		key.Parts["kubernetesNamespace"] = digest([]byte(tenant))
	}
	if key.Mounts, key.MountOrder, err = mountKey(spec.Mounts); err != nil {
		return nil, err
	}
	return key, nil
}

// fields is a value as JSON decodes it.
func fields(v any) (map[string]any, error) {
	data, err := encode(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber() // a float64 would make two large numbers equal
	var tree map[string]any
	if err := d.Decode(&tree); err != nil {
		return nil, fmt.Errorf("read spec: %w", err)
	}
	return tree, nil
}

// addParts makes one part of each field below prefix, except of those that are bound late.
func addParts(parts map[string]string, prefix string, tree map[string]any) error {
	for name, value := range tree {
		where := prefix + name
		children, isObject := value.(map[string]any)
		switch {
		case handlings[where] == boundLate:
			continue
		case isObject && where == "linux.resources":
			if err := addResources(parts, children); err != nil {
				return err
			}
			continue
		case isObject && handlings[where] == eachField:
			if err := addParts(parts, where+".", children); err != nil {
				return err
			}
			continue
		case where == "linux.namespaces":
			if value = withoutLate(value); value == nil {
				continue
			}
		}
		if known, ok := partNames[where]; ok {
			where = known
		}
		digest, err := digestJSON(value)
		if err != nil {
			return err
		}
		parts[where] = digest
	}
	return nil
}

// defaultShares is the weight of a cgroup to which none was given.
const defaultShares json.Number = "1024"

// addResources makes one part of each kind of limit. A kind without limits is the same as none: some clients write it, others leave it out.
func addResources(parts map[string]string, kinds map[string]any) error {
	for kind, limits := range kinds {
		switch l := limits.(type) {
		case map[string]any:
			// ctr writes the kernel's default weight, others leave it out; no app can tell the two apart. Each container gets its own at bind.
			if shares, ok := l["shares"].(json.Number); ok && kind == "cpu" && shares == defaultShares {
				delete(l, "shares")
			}
			if len(l) == 0 {
				continue
			}
		case []any:
			if len(l) == 0 {
				continue
			}
		}
		digest, err := digestJSON(limits)
		if err != nil {
			return err
		}
		parts["resources."+kind] = digest
	}
	return nil
}

// lateNamespaces may be a container's own, another's or the host's, whatever the app was booted in.
var lateNamespaces = map[any]bool{string(specs.NetworkNamespace): true, string(specs.IPCNamespace): true, string(specs.UTSNamespace): true}

// withoutLate drops from a list of namespaces those that are bound late. nil: nothing is left.
func withoutLate(namespaces any) any {
	list, ok := namespaces.([]any)
	if !ok {
		return namespaces
	}
	var kept []any
	for _, entry := range list {
		if ns, ok := entry.(map[string]any); ok && lateNamespaces[ns["type"]] {
			continue
		}
		kept = append(kept, entry)
	}
	if kept == nil {
		return nil
	}
	return kept
}

// envKey digests each variable. A name that is set twice, or an entry without "=", is another value than either alone.
func envKey(env []string) map[string]string {
	values := make(map[string][]string)
	for _, entry := range env {
		name, _, _ := strings.Cut(entry, "=")
		values[name] = append(values[name], entry)
	}
	key := make(map[string]string, len(values))
	for name, entries := range values {
		key[name] = digest([]byte(strings.Join(entries, "\x00")))
	}
	return key
}

// BoundLate says whether a mount of a container is bound into each instance of a seed, whatever the seed was baked with.
func BoundLate(seed *api.SeedInfo, m specs.Mount) bool {
	where := path.Join("/", m.Destination)
	_, baked := seed.Key.GetMounts()[where]
	return !baked || bake.IsPodMemory(m) || slices.Contains(seed.LateMounts, where)
}

// mountKey digests the mounts by their cleaned destination, and gives the order in which they are made: a later mount may hide an earlier one.
func mountKey(mounts []specs.Mount) (key map[string]string, order []string, err error) {
	byPath := make(map[string][]specs.Mount)
	for _, m := range mounts {
		where := path.Join("/", m.Destination)
		if lateMounts[where] {
			continue
		}
		if bake.IsPodMemory(m) {
			m.Source = ""
		}
		byPath[where] = append(byPath[where], m)
		order = append(order, where)
	}
	key = make(map[string]string, len(byPath))
	for where, list := range byPath {
		if key[where], err = digestJSON(list); err != nil {
			return nil, nil, err
		}
	}
	return key, order, nil
}

// digestJSON digests a value in the one form that encoding/json gives it: the members of objects are sorted.
func digestJSON(v any) (string, error) {
	data, err := encode(v)
	if err != nil {
		return "", err
	}
	return digest(data), nil
}

// encode refuses text that is not UTF-8: encoding/json writes all of it as one and the same \ufffd, and different specs would become equal.
func encode(v any) ([]byte, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode spec: %w", err)
	}
	if bytes.Contains(data, []byte(`\ufffd`)) {
		return nil, errors.New("encode spec: it has text that is not UTF-8")
	}
	return data, nil
}

func digest(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
