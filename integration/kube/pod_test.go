package kube

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// api speaks to the API server without the time that kubectl needs to start.
var api = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}

// post makes an object.
func (c *cluster) post(path string, object any) {
	c.Helper()
	body, err := json.Marshal(object)
	if err != nil {
		c.Fatal(err)
	}
	req, err := http.NewRequestWithContext(c.Context(), http.MethodPost, server+path, bytes.NewReader(body))
	if err != nil {
		c.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := api.Do(req)
	if err != nil {
		c.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		text, _ := io.ReadAll(resp.Body)
		c.Fatalf("POST %s: %s: %s", path, resp.Status, text)
	}
}

// template is the pod of the Deployment in contrib/kubernetes, to be bound to the node by hand.
func (c *cluster) template() map[string]any {
	c.Helper()
	var pod map[string]any
	if err := json.Unmarshal([]byte(c.kubectl("get", "deployment", "shop", "-o", "jsonpath={.spec.template}")), &pod); err != nil {
		c.Fatal(err)
	}
	pod["apiVersion"], pod["kind"] = "v1", "Pod"
	spec := pod["spec"].(map[string]any)
	spec["nodeName"] = "node"
	return pod
}

// create makes a pod of the template and returns what passed until its app has answered, and its container.
func (c *cluster) create(name string, change func(spec map[string]any)) (time.Duration, string) {
	c.Helper()
	pod := c.template()
	pod["metadata"] = map[string]any{"name": name}
	if change != nil {
		change(pod["spec"].(map[string]any))
	}
	began := time.Now()
	c.post("/api/v1/namespaces/default/pods", pod)
	c.answers(c.sandbox(name, nil))
	took := time.Since(began)
	c.kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
	return took, c.container(name)
}

// sandbox waits for a pod that runs and is none of those, and returns its id.
func (c *cluster) sandbox(pod string, others map[string]bool) (id string) {
	c.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(startTimeout); time.Now().Before(deadline); <-tick.C {
		list, err := c.cri.ListPodSandbox(c.Context(), &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{
			State: &cri.PodSandboxStateValue{State: cri.PodSandboxState_SANDBOX_READY}, LabelSelector: map[string]string{"io.kubernetes.pod.name": pod},
		}})
		if err != nil {
			c.Fatal(err)
		}
		for _, s := range list.Items {
			if !others[s.Id] {
				return s.Id
			}
		}
	}
	c.Fatalf("no sandbox for %s:\n%s", pod, c.kubectl("describe", "pods"))
	return ""
}

// answers waits for the app's first reply.
func (c *cluster) answers(sandbox string) {
	c.Helper()
	got, err := c.cri.PodSandboxStatus(c.Context(), &cri.PodSandboxStatusRequest{PodSandboxId: sandbox})
	if err != nil {
		c.Fatal(err)
	}
	address := net.JoinHostPort(got.Status.Network.Ip, "8080")
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(startTimeout); ; <-tick.C {
		resp, err := client.Get("http://" + address + "/")
		if err == nil {
			_ = resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s does not answer: %v\n%s", address, err, c.kubectl("describe", "pods"))
		}
	}
}

// container is the id of a pod's container.
func (c *cluster) container(pod string) string {
	c.Helper()
	id := c.kubectl("get", "pod", pod, "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	_, id, _ = strings.Cut(id, "://")
	return id
}

// wantRung fails unless a container was started by the rung.
func (c *cluster) wantRung(id, rung string) {
	c.Helper()
	out, err := c.s.Explain(id)
	if err != nil {
		c.Fatal(err)
	}
	if !strings.Contains(out, "rung "+rung+",") {
		c.Fatalf("%s was not started by rung %s:\n%s", id, rung, out)
	}
}

// bake makes the seed like a container, and for clones its template.
func (c *cluster) bake(like, rung string) {
	c.Helper()
	commands := [][]string{{"seed", "bake", "--name", "shop", "--mode", "clone", "--image", "docker.io/library/python-demo:latest", "--like", like, "--ready", "http://:8080/", "--warmup", "20", "--late-env", "HOSTNAME"}}
	if rung == "fork" {
		commands = append(commands, []string{"pool", "set", "shop", "--spares", "1", "--wait"}, []string{"pool", "set", "shop", "--spares", "0"})
	}
	for _, args := range commands {
		if _, err := c.s.Sprout(c.Context(), args...); err != nil {
			c.Fatal(err)
		}
	}
}

// remains is what there is of pods on the node: sandboxes and containers of any state, cgroups, runc's states, processes, mounts.
func (c *cluster) remains() map[string]int {
	c.Helper()
	left := map[string]int{"processes": len(c.s.Processes())}
	sandboxes, err := c.cri.ListPodSandbox(c.Context(), &cri.ListPodSandboxRequest{})
	if err != nil {
		c.Fatal(err)
	}
	containers, err := c.cri.ListContainers(c.Context(), &cri.ListContainersRequest{})
	if err != nil {
		c.Fatal(err)
	}
	left["sandboxes"], left["containers"] = len(sandboxes.Items), len(containers.Containers)
	for name, pattern := range map[string]string{
		"cgroups of pods": "/sys/fs/cgroup/*" + c.cgroups() + "/kubepods/*/pod*", "runc states": c.path("runc/*/*"),
		"directories of pods": c.path("kubelet/pods/*"), "addresses": c.path("addresses/pods/10.*"), "instances": c.path("run/instances/*"),
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			c.Fatal(err)
		}
		left[name] = len(paths)
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		c.Fatal(err)
	}
	left["mounts"] = strings.Count(string(mounts), c.s.Dir)
	return left
}

// leavesNothing waits until nothing is left that was not there before: the kubelet collects once a minute.
func (c *cluster) leavesNothing(before map[string]int) {
	c.Helper()
	c.await("what pods leave", func() error {
		for what, n := range c.remains() {
			if n > before[what] {
				return fmt.Errorf("%s: %d, before %d", what, n, before[what])
			}
		}
		return nil
	})
}
