package linux

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCgroupIsWeighedWhereItCanBe(t *testing.T) {
	c := cgroup(t)
	must(t, c.SetCPUWeight(25))
	if os.Getenv(roleEnv) == "unified" {
		return // the test's host has its CPU controller in v1
	}
	var found []string
	for _, root := range get[[]string](t)(Hierarchies()) {
		for file, want := range map[string]string{"cpu.shares": "256", "cpu.weight": "25"} {
			data, err := os.ReadFile(filepath.Join(c.in(root), file))
			if err != nil {
				continue
			}
			if found = append(found, file); strings.TrimSpace(string(data)) != want {
				t.Errorf("%s of %s is %s, want %s", file, root, data, want)
			}
		}
	}
	if len(found) == 0 {
		t.Error("no hierarchy weighs it")
	}
	if err := (Cgroup{Path: "/"}).SetCPUWeight(25); err == nil {
		t.Error("all of the machine is weighed")
	}
}
