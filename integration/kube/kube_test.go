package kube

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

const (
	// recreated is how often a pod is deleted and made again.
	recreated = 20
	// compared is how many pods of runc's, and how many cold ones, stand beside them in the table.
	compared = 5
	// restarts is how often a static pod is restarted.
	restarts = 50
)

// contrib is what a user applies.
const contrib = "../../contrib/kubernetes"

func TestPodsAreWokenAndLookAsAny(t *testing.T) {
	for _, rung := range []struct{ name, config string }{{"restore", stack.Restoring}, {"fork", stack.Cloning}} {
		t.Run(rung.name, func(t *testing.T) {
			c := start(t, rung.config)
			c.kubectl("apply", "-f", contrib)
			first := c.replica("")
			cold := c.container(first)
			c.wantRung(cold, "cold")
			c.bake(cold, rung.name)

			// The Deployment replaces what is deleted.
			c.kubectl("delete", "pod", first)
			second := c.replica(first)
			c.wantRung(c.container(second), rung.name)
			c.execAndLogs(second)
			c.forwardsAPort(second)
			c.isProbed(second)
			c.hasStats(second)
			c.passesAnnotations(c.container(second))
			c.recreates(rung.name)
		})
	}
}

// replica waits for the Deployment's pod, other than one that is deleted, to be ready.
func (c *cluster) replica(other string) (name string) {
	c.Helper()
	c.await("a replica", func() error {
		for _, pod := range strings.Fields(c.kubectl("get", "pods", "-l", "app=shop", "-o", "jsonpath={.items[*].metadata.name}")) {
			if pod != other {
				name = pod
				return c.try("wait", "--for=condition=Ready", "pod/"+pod, "--timeout=30s")
			}
		}
		return fmt.Errorf("there is none but %q", other)
	})
	return name
}

func (c *cluster) execAndLogs(pod string) {
	c.Helper()
	if name := c.kubectl("exec", pod, "--", "hostname"); name != pod {
		c.Errorf("host name %q of pod %s", name, pod)
	}
	c.kubectl("exec", pod, "--", "sh", "-c", "echo to the log >/proc/1/fd/1")
	c.await("the log", func() error {
		if out, err := c.output("logs", pod); err != nil || !strings.Contains(out, "to the log") {
			return fmt.Errorf("%q, %v", out, err)
		}
		return nil
	})
}

// forwardsAPort asks the app through the API server and the kubelet.
func (c *cluster) forwardsAPort(pod string) {
	c.Helper()
	k := c.s.Command(c.Context(), "kubectl", "--kubeconfig="+c.path("kubeconfig"), "port-forward", "pod/"+pod, ":8080")
	out, err := k.StdoutPipe()
	if err != nil {
		c.Fatal(err)
	}
	if err := k.Start(); err != nil {
		c.Fatal(err)
	}
	defer func() { _, _ = k.Process.Kill(), k.Wait() }()
	line, err := bufio.NewReader(out).ReadString('\n')
	port := regexp.MustCompile(`127\.0\.0\.1:(\d+)`).FindStringSubmatch(line)
	if err != nil || port == nil {
		c.Fatalf("port-forward says %q, %v", line, err)
	}
	resp, err := http.Get("http://127.0.0.1:" + port[1] + "/hostname")
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	if body, err := io.ReadAll(resp.Body); err != nil || string(body) != pod {
		c.Errorf("through the forwarded port: %q, %v", body, err)
	}
}

// isProbed waits until the kubelet has asked by exec and by HTTP, and was content.
func (c *cluster) isProbed(pod string) {
	c.Helper()
	for _, kind := range []string{"Liveness", "Readiness"} {
		c.await(kind+" probe", func() error {
			metrics := c.kubectl("get", "--raw", "/api/v1/nodes/node/proxy/metrics/probes")
			for line := range strings.Lines(metrics) {
				if strings.HasPrefix(line, "prober_probe_total{") && strings.Contains(line, pod) && strings.Contains(line, kind) && strings.Contains(line, `"successful"`) {
					return nil
				}
			}
			return fmt.Errorf("none was successful")
		})
	}
	if n := c.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); n != "0" {
		c.Errorf("restarted %s times", n)
	}
}

// hasStats waits for what `kubectl top` is made of.
func (c *cluster) hasStats(pod string) {
	c.Helper()
	c.await("stats", func() error {
		var stats struct {
			Pods []struct {
				PodRef     struct{ Name string }
				Containers []struct {
					Memory struct{ WorkingSetBytes uint64 }
				}
			}
		}
		if err := json.Unmarshal([]byte(c.kubectl("get", "--raw", "/api/v1/nodes/node/proxy/stats/summary")), &stats); err != nil {
			return err
		}
		for _, p := range stats.Pods {
			if p.PodRef.Name == pod && len(p.Containers) == 1 && p.Containers[0].Memory.WorkingSetBytes > 0 {
				return nil
			}
		}
		return fmt.Errorf("none of %s", pod)
	})
}

// passesAnnotations: the pod's own annotations for sprout are the container's.
func (c *cluster) passesAnnotations(container string) {
	c.Helper()
	out, err := c.s.Ctr(c.Context(), "containers", "info", "--spec", container)
	if err != nil || !strings.Contains(out, `"sprout.dev/`) {
		c.Errorf("no annotation of sprout's: %v\n%s", err, out)
	}
}

// recreates makes and deletes pods, first of runc's, then cold ones, then woken ones, and prints how long each kind took to answer.
func (c *cluster) recreates(rung string) {
	c.Helper()
	c.post("/apis/node.k8s.io/v1/runtimeclasses", map[string]any{"apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass", "metadata": map[string]any{"name": "runc"}, "handler": "runc"})
	kinds := []struct {
		name   string
		rounds int
		change func(spec map[string]any)
	}{
		{"runc", compared, func(spec map[string]any) { spec["runtimeClassName"] = "runc" }},
		{"cold", compared, func(spec map[string]any) {
			container := spec["containers"].([]any)[0].(map[string]any)
			container["env"] = []any{map[string]any{"name": "NOT_IN_ANY_SEED", "value": "1"}}
		}},
		{rung, recreated, nil},
	}
	before := c.remains()
	table := "pod created → first reply, ms\n| rung | pods | median | fastest | slowest | ÷ runc |\n|---|---|---|---|---|---|\n"
	var runc time.Duration
	for _, kind := range kinds {
		var took []time.Duration
		for round := range kind.rounds {
			name := fmt.Sprintf("%s-%d", kind.name, round)
			d, id := c.create(name, kind.change)
			if kind.name != "runc" {
				c.wantRung(id, kind.name)
			}
			took = append(took, d)
			c.kubectl("delete", "pod", name)
		}
		slices.Sort(took)
		median := took[len(took)/2]
		if kind.name == "runc" {
			runc = median
		}
		table += fmt.Sprintf("| %s | %d | %d | %d | %d | %.2f |\n", kind.name, len(took), median.Milliseconds(), took[0].Milliseconds(), took[len(took)-1].Milliseconds(),
			float64(median)/float64(runc))
	}
	c.leavesNothing(before)
	c.Log(table)
}

func TestStaticPodsThatAreRestartedLeaveNothing(t *testing.T) {
	c := start(t, stack.Restoring)
	c.kubectl("apply", "-f", contrib)
	cold := c.container(c.replica(""))
	c.bake(cold, "restore")
	before := c.remains()
	seen := map[string]bool{}
	for round := range restarts {
		pod := c.template()
		spec := pod["spec"].(map[string]any)
		delete(spec, "nodeName")
		spec["terminationGracePeriodSeconds"] = 1
		pod["metadata"] = map[string]any{"name": "static", "namespace": "default", "annotations": map[string]any{"round": fmt.Sprint(round)}}
		text, err := json.Marshal(pod)
		if err != nil {
			t.Fatal(err)
		}
		// Another text is another pod to the kubelet. It reads files whose names begin with a dot never.
		hidden, manifest := c.write("manifests/.static", string(text)), filepath.Join(c.path("manifests"), "static.json")
		if err := os.Rename(hidden, manifest); err != nil {
			t.Fatal(err)
		}
		id := c.sandbox("static-node", seen)
		seen[id] = true
		c.answers(id)
	}
	if err := os.Remove(filepath.Join(c.path("manifests"), "static.json")); err != nil {
		t.Fatal(err)
	}
	c.leavesNothing(before)
}
