package shim

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	// runc registers the cgroup device code so, too: without it no limit on devices could be set.
	_ "github.com/opencontainers/cgroups/devices"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runc/libcontainer/specconv"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// runcConfig is the spec as runc understands it: made by runc's own code, so that every rule (paths of cgroups, default devices,
// seccomp, labels) is runc's. It is what `runc exec` and the others find in the state.
func runcConfig(spec *specs.Spec, id, bundle string) (*configs.Config, error) {
	absolute := *spec
	absolute.Root = &specs.Root{Path: filepath.Join(bundle, "rootfs"), Readonly: spec.Root.Readonly}
	absolute.Mounts = slices.Clone(spec.Mounts)
	for i, m := range absolute.Mounts {
		if linux.IsBind(m.Type, m.Options) && !filepath.IsAbs(m.Source) {
			absolute.Mounts[i].Source = filepath.Join(bundle, m.Source)
		}
	}
	config, err := specconv.CreateLibcontainerConfig(&specconv.CreateOpts{CgroupName: id, Spec: &absolute})
	if err != nil {
		return nil, fmt.Errorf("convert spec: %w", err)
	}
	// runc takes its working directory for the bundle; the shim's is another one.
	config.Labels = slices.DeleteFunc(config.Labels, func(l string) bool { return strings.HasPrefix(l, "bundle=") })
	config.Labels = append(config.Labels, "bundle="+bundle)
	return config, nil
}

// runcState is what runc keeps of a running container, for an instance that runc did not make.
func runcState(id string, config *configs.Config, inst *api.Instance, cgroupPaths map[string]string) *libcontainer.State {
	pid := int(inst.Pid)
	state := &libcontainer.State{
		BaseState: libcontainer.BaseState{
			ID:                   id,
			InitProcessPid:       pid,
			InitProcessStartTime: inst.StartTime,
			Created:              time.Now().UTC(),
			Config:               *config,
		},
		CgroupPaths:    cgroupPaths,
		NamespacePaths: make(map[configs.NamespaceType]string),
	}
	for _, kind := range configs.NamespaceTypes() {
		if configs.IsNamespaceSupported(kind) {
			ns := configs.Namespace{Type: kind}
			state.NamespacePaths[kind] = ns.GetPath(pid)
		}
	}
	// Its clocks go on where the seed's stood, for what is added to it, too. No spec of a woken container asks for a time namespace: runc would not look for it.
	if linux.OwnTimeNS(pid) {
		state.Config.Namespaces = append(slices.Clone(config.Namespaces), configs.Namespace{Type: configs.NEWTIME})
	}
	// `runc checkpoint` must know what the standard streams were.
	for fd := range 3 {
		target, err := os.Readlink(filepath.Join("/proc", strconv.Itoa(pid), "fd", strconv.Itoa(fd)))
		if err != nil {
			target = os.DevNull
		}
		state.ExternalDescriptors = append(state.ExternalDescriptors, target)
	}
	return state
}

// writeRuncState puts the state where runc looks for it: <root>/<id>/state.json, root being runc's root with the namespace.
// It refuses an id that is there already.
func writeRuncState(root string, state *libcontainer.State) error {
	data, err := json.Marshal(state)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return err
	}
	dir := filepath.Join(root, state.ID)
	if err := os.Mkdir(dir, 0o711); err != nil {
		return err
	}
	return writeFile(runcStateFile(root, state.ID), data)
}

// rewriteRuncState gives the state that is there another process: what was updated since stays.
func rewriteRuncState(root string, state *libcontainer.State) error {
	was, err := readRuncState(root, state.ID)
	if err != nil {
		return err
	}
	was.InitProcessPid, was.InitProcessStartTime = state.InitProcessPid, state.InitProcessStartTime
	was.NamespacePaths, was.ExternalDescriptors = state.NamespacePaths, state.ExternalDescriptors
	data, err := json.Marshal(was)
	if err != nil {
		return err
	}
	return writeFile(runcStateFile(root, state.ID), data)
}

func runcStateFile(root, id string) string { return filepath.Join(root, id, "state.json") }

func readRuncState(root, id string) (*libcontainer.State, error) {
	data, err := os.ReadFile(runcStateFile(root, id))
	if err != nil {
		return nil, err
	}
	state := new(libcontainer.State)
	if err := json.Unmarshal(data, state); err != nil {
		return nil, fmt.Errorf("decode runc state of %s: %w", id, err)
	}
	return state, nil
}
