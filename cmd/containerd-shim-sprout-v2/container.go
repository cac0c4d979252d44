package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// groupAnnotations name the group of a container, in the order in which containerd's runc shim looks at them. One shim serves a group.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// container is what the launcher wants to know of a container. One without a group is its own.
type container struct {
	group  string
	cgroup string
}

// readContainer reads a bundle's config.json.
func readContainer(bundle, id string) (container, error) {
	file, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return container{}, fmt.Errorf("read container: %w", err)
	}
	defer file.Close()
	var spec struct {
		Annotations map[string]string `json:"annotations"`
		Linux       struct {
			CgroupsPath string `json:"cgroupsPath"`
		} `json:"linux"`
	}
	if err := json.NewDecoder(file).Decode(&spec); err != nil {
		return container{}, fmt.Errorf("decode %s: %w", file.Name(), err)
	}
	c := container{group: id, cgroup: spec.Linux.CgroupsPath}
	for _, name := range groupAnnotations {
		if group, ok := spec.Annotations[name]; ok {
			c.group = group
			break
		}
	}
	return c, nil
}
