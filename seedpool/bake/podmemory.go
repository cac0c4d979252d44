package bake

import (
	"fmt"
	"os"
	"path"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// podMemory is where the containers of a pod share a tmpfs, which is bound from the host. An app is baked with one of its own, as it is in a container without a pod.
var podMemory = specs.Mount{
	Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"},
}

// IsPodMemory says whether a mount is the memory that a pod's containers share: each instance is bound to that of its pod.
func IsPodMemory(m specs.Mount) bool {
	return linux.IsBind(m.Type, m.Options) && path.Clean(m.Destination) == podMemory.Destination
}

// ownMemory gives a spec that shares such memory one of its own.
func ownMemory(spec *specs.Spec) {
	for i, m := range spec.Mounts {
		if IsPodMemory(m) {
			spec.Mounts[i] = podMemory
		}
	}
}

// leftInPodMemory refuses an app that has files where its instances will find those of their pods.
func leftInPodMemory(pid int) error {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/root%s", pid, podMemory.Destination))
	if err != nil || len(list) == 0 {
		return err
	}
	return hinted{
		fmt.Errorf("the app keeps %s in %s, which is its pod's", list[0].Name(), podMemory.Destination),
		"bake it before it makes files there, or without that mount for containers outside of pods",
	}
}
