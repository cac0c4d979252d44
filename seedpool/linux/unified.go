package linux

import (
	"fmt"
	"os"
	"strings"
)

// UnifiedPath is the path of a process's cgroup in the v2 hierarchy, as the caller's cgroup namespace shows it.
func UnifiedPath(pid int) (string, error) {
	file := fmt.Sprintf("/proc/%d/cgroup", pid)
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path, nil
		}
	}
	return "", fmt.Errorf("parse %s: no line of the v2 hierarchy", file)
}
