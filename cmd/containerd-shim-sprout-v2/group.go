package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// groupAnnotations name the group of a container, in the order in which containerd's runc shim looks at them. One shim serves a group.
var groupAnnotations = []string{"io.containerd.runc.v2.group", "io.kubernetes.cri.sandbox-id"}

// groupOf reads which group the container of a bundle belongs to; one without a group is its own.
func groupOf(bundle, id string) (string, error) {
	file, err := os.Open(filepath.Join(bundle, "config.json"))
	if err != nil {
		return "", fmt.Errorf("read group: %w", err)
	}
	defer file.Close()
	var spec struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.NewDecoder(file).Decode(&spec); err != nil {
		return "", fmt.Errorf("decode %s: %w", file.Name(), err)
	}
	for _, name := range groupAnnotations {
		if group, ok := spec.Annotations[name]; ok {
			return group, nil
		}
	}
	return id, nil
}
