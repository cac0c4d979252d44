package integration

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestContainerdTakesTheLinesOfContrib has containerd itself read them: what it does not know, it refuses or does not print again.
func TestContainerdTakesTheLinesOfContrib(t *testing.T) {
	out, err := house.Command(t.Context(), "containerd", "--config", "../contrib/containerd/sprout.toml", "config", "dump").CombinedOutput()
	if err != nil {
		t.Fatal(err, string(out))
	}
	printed := house.Command(t.Context(), "sproutd", "config", "default")
	printed.Env = append(printed.Env, "SPROUT_RUN_DIR=")
	defaults, err := printed.Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{
		"address = '" + setting(t, string(defaults), "run_dir") + "/snapshotter.sock'", "root = '" + setting(t, string(defaults), "state_dir") + "/snapshots'",
		"[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.sprout]", "runtime_type = 'io.containerd.sprout.v2'", "pod_annotations = ['sprout.dev/*']",
		"[plugins.'io.containerd.cri.v1.images'.runtime_platforms.sprout]", "snapshotter = 'sprout'", "SystemdCgroup = false",
	} {
		if !strings.Contains(string(out), line) {
			t.Errorf("containerd knows nothing of %s", line)
		}
	}
}

// setting is the value of one of sproutd's settings, a text.
func setting(t *testing.T, config, name string) string {
	t.Helper()
	_, rest, found := strings.Cut(config, "\n"+name+" = \"")
	value, _, _ := strings.Cut(rest, "\"")
	if !found {
		t.Fatalf("no %s in:\n%s", name, config)
	}
	return value
}

// TestEachDirectiveOfTheUnitIsExplained: and systemd, where there is one, has nothing to say against them, apart from the program that is not installed.
func TestEachDirectiveOfTheUnitIsExplained(t *testing.T) {
	const unit = "../contrib/systemd/sproutd.service"
	data, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	before := ""
	for line := range strings.Lines(string(data)) {
		if strings.Contains(line, "=") && !strings.HasPrefix(line, "#") && !strings.HasPrefix(before, "#") {
			t.Errorf("no comment above %s", line)
		}
		before = line
	}
	installed := filepath.Join(t.TempDir(), "sproutd.service")
	if err := os.WriteFile(installed, []byte(strings.ReplaceAll(string(data), "/usr/local/bin/sproutd", "/bin/true")), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), "systemd-analyze", "verify", "--man=no", installed).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "sproutd.service") {
			t.Error(strings.TrimSpace(line))
		}
	}
}

// TestTheNetworkOfContribIsJSON: and a list of plugins.
func TestTheNetworkOfContribIsJSON(t *testing.T) {
	data, err := os.ReadFile("../contrib/cni/10-sprout.conflist")
	if err != nil {
		t.Fatal(err)
	}
	var list struct {
		CNIVersion, Name string
		Plugins          []struct{ Type string }
	}
	if err := json.Unmarshal(data, &list); err != nil || list.CNIVersion == "" || list.Name == "" || len(list.Plugins) != 2 {
		t.Errorf("%+v, %v", list, err)
	}
}
