package integration

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/sproutrun/sprout/integration/stack"
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

// manifest is as much of Kubernetes' objects as contrib has, by the names of their fields: one that is spelled otherwise is an error. `make kube-test` has a real API server
// read them.
type manifest struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string
	Metadata   metadata
	Handler    string
	Spec       struct {
		Selector struct {
			MatchLabels map[string]string `yaml:"matchLabels"`
		}
		Template struct {
			Metadata metadata
			Spec     struct {
				RuntimeClassName             string `yaml:"runtimeClassName"`
				EnableServiceLinks           *bool  `yaml:"enableServiceLinks"`
				AutomountServiceAccountToken *bool  `yaml:"automountServiceAccountToken"`
				Containers                   []container
			}
		}
	}
}

type metadata struct {
	Name                string
	Labels, Annotations map[string]string
}

type container struct {
	Name, Image     string
	ImagePullPolicy string `yaml:"imagePullPolicy"`
	Ports           []struct {
		ContainerPort int `yaml:"containerPort"`
	}
	Resources      struct{ Requests, Limits map[string]string }
	ReadinessProbe probe `yaml:"readinessProbe"`
	LivenessProbe  probe `yaml:"livenessProbe"`
}

type probe struct {
	HTTPGet struct {
		Path string
		Port int
	} `yaml:"httpGet"`
	Exec          struct{ Command []string }
	PeriodSeconds int `yaml:"periodSeconds"`
}

// manifests reads a file of contrib's.
func manifests(t *testing.T, file string) (list []manifest) {
	t.Helper()
	f, err := os.Open(filepath.Join("../contrib/kubernetes", file))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	decoder := yaml.NewDecoder(f)
	decoder.KnownFields(true)
	for {
		var m manifest
		if err := decoder.Decode(&m); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		list = append(list, m)
	}
}

func TestTheManifestsOfContribFitTogether(t *testing.T) {
	class, demo := manifests(t, "runtimeclass.yaml"), manifests(t, "demo.yaml")
	if len(class) != 1 || class[0].APIVersion != "node.k8s.io/v1" || class[0].Kind != "RuntimeClass" || class[0].Handler != stack.RuntimeHandler {
		t.Fatalf("%+v", class)
	}
	if len(demo) != 1 || demo[0].APIVersion != "apps/v1" || demo[0].Kind != "Deployment" || len(demo[0].Spec.Template.Spec.Containers) != 1 {
		t.Fatalf("%+v", demo)
	}
	spec, pod := demo[0].Spec, demo[0].Spec.Template
	app := pod.Spec.Containers[0]
	for key, value := range spec.Selector.MatchLabels {
		if pod.Metadata.Labels[key] != value {
			t.Errorf("the selector asks for %s: %s of pods that have %v", key, value, pod.Metadata.Labels)
		}
	}
	if pod.Spec.RuntimeClassName != class[0].Metadata.Name {
		t.Errorf("pods of class %q, there is %q", pod.Spec.RuntimeClassName, class[0].Metadata.Name)
	}
	if app.Image != stack.Ref("python-demo") || app.ReadinessProbe.HTTPGet.Port != app.Ports[0].ContainerPort {
		t.Errorf("%+v", app)
	}
	for key := range pod.Metadata.Annotations {
		if !strings.HasPrefix(key, "sprout.dev/") {
			t.Errorf("containerd does not pass annotation %s on", key)
		}
	}
}
