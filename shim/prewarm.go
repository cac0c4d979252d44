package shim

import (
	"encoding/json"
	"fmt"

	"github.com/containerd/cgroups/v3"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/cgroups/manager"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// prewarm goes once through what a start computes, for a container that nobody asked for: the first time costs milliseconds, for
// tables of types, lists of mounts and pages of the binary, and an idle shim has the time. It touches nothing outside this process.
func prewarm() error {
	spec, err := reread(prewarmSpec())
	if err != nil {
		return fmt.Errorf("prewarm spec: %w", err)
	}
	key, err := seedpool.KeyOf(spec)
	if err != nil {
		return fmt.Errorf("prewarm key: %w", err)
	}
	if _, err := linux.Hierarchies(); err != nil {
		return err
	}
	cgroups.Mode()
	config, err := runcConfig(spec, "prewarm", "/nonexistent")
	if err != nil {
		return err
	}
	limits, err := manager.New(config.Cgroups)
	if err != nil {
		return err
	}
	if _, err := json.Marshal(runcState("prewarm", config, &api.Instance{}, limits.GetPaths())); err != nil {
		return fmt.Errorf("prewarm state: %w", err)
	}
	if _, err := grantOf(spec); err != nil {
		return err
	}
	return prewarmMessages(key)
}

// prewarmMessages encodes and decodes what goes to and comes from containerd and sproutd.
func prewarmMessages(key *api.Key) error {
	opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: "runc"})
	if err != nil {
		return err
	}
	if err := typeurl.UnmarshalTo(opts, &options.Options{}); err != nil {
		return err
	}
	start := &api.Start{Fallbacks: []*api.Fallback{{Rung: "thaw"}}, Phases: []*api.Phase{{Name: "read"}}}
	for _, m := range []proto.Message{
		&taskAPI.CreateTaskRequest{Options: opts}, &taskAPI.CreateTaskResponse{Pid: 1}, &taskAPI.StartRequest{ID: "prewarm"},
		&api.LookupRequest{Key: key}, &api.LookupResponse{Seed: &api.SeedInfo{Key: key}}, &api.ClaimRequest{Id: "prewarm"},
		&api.ClaimResponse{Instance: &api.Instance{Id: "prewarm"}}, start,
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			return err
		}
		if err := proto.Unmarshal(data, m); err != nil {
			return err
		}
	}
	_, err = protojson.Marshal(start)
	return err
}

// reread is a spec as the bundle's file would give it.
func reread(spec *specs.Spec) (*specs.Spec, error) {
	data, err := json.Marshal(spec)
	if err != nil {
		return nil, err
	}
	read := new(specs.Spec)
	return read, json.Unmarshal(data, read)
}

// prewarmSpec has something of most kinds that specs have.
func prewarmSpec() *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL"}
	shares, limit := uint64(1024), int64(1<<30)
	return &specs.Spec{
		Version: specs.Version, Hostname: "prewarm", Root: &specs.Root{Path: "rootfs"}, Annotations: map[string]string{"a": "b"},
		Process: &specs.Process{
			Args: []string{"/bin/true"}, Env: []string{"PATH=/bin"}, Cwd: "/", User: specs.User{AdditionalGids: []uint32{0}},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec"}},
			{Destination: "/etc/hosts", Type: "bind", Source: "/etc/hosts", Options: []string{"rbind", "ro"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/prewarm",
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			MaskedPaths: []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}},
				CPU:     &specs.LinuxCPU{Shares: &shares}, Memory: &specs.LinuxMemory{Limit: &limit},
			},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno,
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"read", "write"}, Action: specs.ActAllow}},
			},
		},
	}
}
