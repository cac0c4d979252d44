package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// node is a stack as a kubelet sees it.
type node struct {
	*testing.T
	s    *stack.Stack
	cri  runtime.RuntimeServiceClient
	logs string
	// clones: instances are cloned.
	clones bool
}

func newNode(t *testing.T, config string, images ...string) *node {
	t.Helper()
	if _, err := os.Stat("/var/lib/cni"); os.IsNotExist(err) {
		// libcni keeps its results there, wherever the rest is.
		t.Cleanup(func() { _ = os.RemoveAll("/var/lib/cni") })
	}
	s, err := stack.Start(t.Context(), stack.Options{Out: outDir(), Config: config, CRI: true, Namespace: stack.CRINamespace})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{T: t, s: s, logs: filepath.Join(s.Dir, "pods"), clones: config == stack.Cloning}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Logs())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := (linux.Cgroup{Path: n.cgroups()}).Remove(); err != nil {
			t.Error(err)
		}
	})
	client, conn, err := s.Pods()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	n.cri = client
	if err := s.Import(t.Context(), images...); err != nil {
		t.Fatal(err)
	}
	return n
}

// pod is one sandbox.
type pod struct {
	*node
	id     string
	config *runtime.PodSandboxConfig
}

func (n *node) pod(name string, changes ...func(*runtime.PodSandboxConfig)) *pod {
	n.Helper()
	p := &pod{node: n, config: &runtime.PodSandboxConfig{
		Metadata:     &runtime.PodSandboxMetadata{Name: name, Uid: name + "-uid", Namespace: "shop"},
		Hostname:     name,
		LogDirectory: filepath.Join(n.logs, name),
		Linux: &runtime.LinuxPodSandboxConfig{
			CgroupParent: n.cgroups(),
			SecurityContext: &runtime.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtime.NamespaceOption{Pid: runtime.NamespaceMode_CONTAINER},
			},
		},
	}}
	for _, change := range changes {
		change(p.config)
	}
	got, err := n.cri.RunPodSandbox(n.Context(), &runtime.RunPodSandboxRequest{Config: p.config, RuntimeHandler: stack.RuntimeHandler})
	if err != nil {
		n.Fatal(err)
	}
	p.id = got.PodSandboxId
	n.Cleanup(p.remove)
	return p
}

// cgroups is the one below which the pods are.
func (n *node) cgroups() string { return "/" + filepath.Base(n.s.Dir) + "-pods" }

func (p *pod) remove() {
	ctx := context.WithoutCancel(p.Context())
	if _, err := p.cri.StopPodSandbox(ctx, &runtime.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.Error(err)
	}
	if _, err := p.cri.RemovePodSandbox(ctx, &runtime.RemovePodSandboxRequest{PodSandboxId: p.id}); err != nil {
		p.Error(err)
	}
}

// start creates and starts a container of the pod, as a kubelet does.
func (p *pod) start(name, image string, attempt uint32, changes ...func(*runtime.ContainerConfig)) (id string) {
	p.Helper()
	config := &runtime.ContainerConfig{
		Metadata: &runtime.ContainerMetadata{Name: name, Attempt: attempt},
		Image:    &runtime.ImageSpec{Image: stack.Ref(image)},
		LogPath:  fmt.Sprintf("%s_%d.log", name, attempt),
		Envs:     []*runtime.KeyValue{{Key: "POD", Value: []byte(p.config.Metadata.Name)}},
		Mounts: []*runtime.Mount{
			{ContainerPath: "/etc/hosts", HostPath: "/etc/hosts"},
			{ContainerPath: "/dev/termination-log", HostPath: p.file("termination-" + name)},
		},
		Linux: &runtime.LinuxContainerConfig{
			Resources: &runtime.LinuxContainerResources{CpuShares: 102, OomScoreAdj: 900, MemoryLimitInBytes: 1 << 30},
			SecurityContext: &runtime.LinuxContainerSecurityContext{
				NamespaceOptions: p.config.Linux.SecurityContext.NamespaceOptions,
				NoNewPrivs:       true,
				MaskedPaths:      []string{"/proc/kcore", "/proc/keys", "/sys/firmware"},
				ReadonlyPaths:    []string{"/proc/sys", "/proc/irq"},
			},
		},
	}
	for _, change := range changes {
		change(config)
	}
	got, err := p.cri.CreateContainer(p.Context(), &runtime.CreateContainerRequest{PodSandboxId: p.id, Config: config, SandboxConfig: p.config})
	if err != nil {
		p.Fatal(err)
	}
	if _, err := p.cri.StartContainer(p.Context(), &runtime.StartContainerRequest{ContainerId: got.ContainerId}); err != nil {
		p.Fatal(err)
	}
	return got.ContainerId
}

// file makes an empty one of the pod's.
func (p *pod) file(name string) string {
	p.Helper()
	dir := filepath.Join(p.logs, p.config.Metadata.Name)
	file := filepath.Join(dir, name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		p.Fatal(err)
	}
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		p.Fatal(err)
	}
	return file
}

// exec runs a command in a container and returns what it says.
func (n *node) exec(id string, command ...string) string {
	n.Helper()
	got, err := n.cri.ExecSync(n.Context(), &runtime.ExecSyncRequest{ContainerId: id, Cmd: command, Timeout: 10})
	if err != nil || got.ExitCode != 0 {
		n.Fatalf("%v: %v, %v", command, got, err)
	}
	return strings.TrimSpace(string(got.Stdout))
}

// stop ends a container within its grace period and returns its exit status.
func (n *node) stop(id string) int32 {
	n.Helper()
	if _, err := n.cri.StopContainer(n.Context(), &runtime.StopContainerRequest{ContainerId: id, Timeout: 2}); err != nil {
		n.Fatal(err)
	}
	got, err := n.cri.ContainerStatus(n.Context(), &runtime.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		n.Fatal(err)
	}
	if state := got.Status.State; state != runtime.ContainerState_CONTAINER_EXITED {
		n.Errorf("container is %v", state)
	}
	return got.Status.ExitCode
}

// bakeLike bakes a seed from a container of a pod.
func (p *pod) bakeLike(id, seed, image string, args ...string) {
	p.Helper()
	args = append([]string{"seed", "bake", "--mode", "clone", "--name", seed, "--image", stack.Ref(image), "--like", id, "--late-env", "HOSTNAME", "--late-env", "POD"}, args...)
	if _, err := p.s.Sprout(p.Context(), args...); err != nil {
		p.Fatal(err)
	}
	if p.clones {
		setPool(p.T, p.s, seed, 1) // so that the template stands
		setPool(p.T, p.s, seed, 0)
	}
}

// inPod makes sure that a container is in the namespaces of its pod's sandbox.
func (p *pod) inPod(id string) {
	p.Helper()
	sandbox, own := pid(p.T, p.s, p.id), pid(p.T, p.s, id)
	for kind, shared := range map[string]bool{"net": true, "ipc": true, "uts": true, "pid": false, "mnt": false} {
		pods, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", sandbox, kind))
		if err != nil {
			p.Fatal(err)
		}
		if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", own, kind)); err != nil || (its == pods) != shared {
			p.Errorf("%s namespace %s, the pod's %s, %v", kind, its, pods, err)
		}
	}
}

func TestContainersOfAPodAreWokenInIt(t *testing.T) {
	for _, rung := range []struct{ name, config, userImage string }{
		{"restore", stack.Restoring, "named-user-demo"}, {"fork", stack.Cloning, "numeric-user-demo"},
	} {
		t.Run(rung.name, func(t *testing.T) {
			n := newNode(t, rung.config, "python-demo", stack.SandboxImage, rung.userImage)
			first := n.pod("first")
			cold := first.start("shop", "python-demo", 0)
			get(t, n.s, cold, "/")
			first.inPod(cold)
			first.bakeLike(cold, "shop", "python-demo", "--ready", "http://:8080/", "--warmup", "20")

			p := n.pod("second")
			woken := p.start("shop", "python-demo", 0)
			get(t, n.s, woken, "/")
			wantRung(t, n.s, woken, rung.name)
			p.inPod(woken)
			p.looksAsTheFirst(woken, cold)
			p.sharesMemoryWithASidecar(woken)
			p.logsAndStats(woken)

			n.podOfTheHostsIPC(rung.name)
			n.podOfAnotherTenant()
			n.podThatIsSetUp(rung.name, rung.userImage)

			status := p.stop(woken)
			if want := first.stop(cold); status != want {
				t.Errorf("exit status %d, of the one that was booted %d", status, want)
			}
			again := p.start("shop", "python-demo", 1)
			get(t, n.s, again, "/")
			wantRung(t, n.s, again, rung.name)
			p.inPod(again)
		})
	}
}

// podOfTheHostsIPC: its containers are woken, too.
func (n *node) podOfTheHostsIPC(rung string) {
	n.Helper()
	p := n.pod("host-ipc", func(c *runtime.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Ipc = runtime.NamespaceMode_NODE
	})
	id := p.start("shop", "python-demo", 0)
	get(n.T, n.s, id, "/")
	wantRung(n.T, n.s, id, rung)
	p.inPod(id)
	host, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		n.Fatal(err)
	}
	if its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", pid(n.T, n.s, id))); err != nil || its != host {
		n.Errorf("IPC namespace %s, the host's %s, %v", its, host, err)
	}
}

// podOfAnotherTenant: a seed of one Kubernetes namespace wakes in no other.
func (n *node) podOfAnotherTenant() {
	n.Helper()
	p := n.pod("stranger", func(c *runtime.PodSandboxConfig) { c.Metadata.Namespace = "bank" })
	id := p.start("shop", "python-demo", 0)
	get(n.T, n.s, id, "/")
	wantRung(n.T, n.s, id, "cold")
	if out := explain(n.T, n.s, id); !strings.Contains(out, "shop differs in kubernetesNamespace") {
		n.Errorf("another tenant's pod:\n%s", out)
	}
}

// looksAsTheFirst compares what a woken container of a pod sees with what a booted one of another pod does.
func (p *pod) looksAsTheFirst(woken, cold string) {
	p.Helper()
	if name := p.exec(woken, "hostname"); name != p.config.Hostname {
		p.Errorf("host name %s", name)
	}
	if address := p.exec(woken, "cat", "/proc/net/fib_trie"); !strings.Contains(address, "10.88.0.") {
		p.Errorf("no address of the pod's:\n%s", address)
	}
	const look = `grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/1/status; awk '$5 != "/run/sprout" {seen[$5] = $6} END {for (p in seen) print p, seen[p]}' /proc/1/mountinfo | sort; ls -l /proc/1/ns | wc -l`
	want := p.exec(cold, "sh", "-c", look)
	if got := p.exec(woken, "sh", "-c", look); got != want {
		p.Errorf("woken:\n%s\nbooted:\n%s", got, want)
	}
}

// sharesMemoryWithASidecar: /dev/shm is the pod's.
func (p *pod) sharesMemoryWithASidecar(woken string) {
	p.Helper()
	sidecar := p.start("sidecar", stack.SandboxImage, 0)
	p.exec(sidecar, "sh", "-c", "echo hello >/dev/shm/word")
	if word := p.exec(woken, "cat", "/dev/shm/word"); word != "hello" {
		p.Errorf("the app reads %q", word)
	}
}

// logsAndStats: what a kubelet shows of a container.
func (p *pod) logsAndStats(id string) {
	p.Helper()
	p.exec(id, "sh", "-c", "echo to the log >/proc/1/fd/1")
	file := filepath.Join(p.config.LogDirectory, "shop_0.log")
	deadline := time.Now().Add(5 * time.Second)
	for {
		data, err := os.ReadFile(file)
		if err == nil && strings.Contains(string(data), " stdout F to the log\n") {
			break
		}
		if time.Now().After(deadline) {
			p.Fatalf("log: %s, %v", data, err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	stats, err := p.cri.ContainerStats(p.Context(), &runtime.ContainerStatsRequest{ContainerId: id})
	if err != nil || stats.Stats.GetMemory().GetWorkingSetBytes().GetValue() == 0 {
		p.Errorf("stats %v, %v", stats, err)
	}
}
