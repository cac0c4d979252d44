package kube

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"google.golang.org/grpc"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// The API server's address, and the word that makes its caller the administrator.
const (
	server = "https://127.0.0.1:6443"
	token  = "let-me-in"
)

// startTimeout is for whatever a whole cluster takes a while to do.
const startTimeout = 90 * time.Second

// cluster is a Kubernetes of one node, called "node".
type cluster struct {
	*testing.T
	s   *stack.Stack
	cri cri.RuntimeServiceClient

	conn *grpc.ClientConn
}

// start makes a cluster that ends with the test; config are lines for sproutd's configuration.
func start(t *testing.T, config string) *cluster {
	t.Helper()
	s, err := stack.Start(t.Context(), stack.Options{Out: outDir(), Config: config, CRI: true, PodGateway: true, Namespace: stack.CRINamespace})
	if err != nil {
		t.Fatal(err)
	}
	c := &cluster{T: t, s: s}
	client, conn, err := s.Pods()
	if err != nil {
		t.Fatal(errors.Join(err, s.Close()))
	}
	c.cri, c.conn = client, conn
	t.Cleanup(c.close)
	if err := s.ImportFor(t.Context(), []string{stack.Snapshotter, stack.OverlaySnapshotter}, "python-demo", stack.SandboxImage); err != nil {
		t.Fatal(err)
	}
	c.startServer()
	c.startNode()
	return c
}

func outDir() string {
	if dir := os.Getenv("SPROUT_OUT"); dir != "" {
		return dir
	}
	dir, err := filepath.Abs("../../_out")
	if err != nil {
		panic(err)
	}
	return dir
}

// close ends the kubelet first, which would start again what is removed then.
func (c *cluster) close() {
	if c.Failed() {
		c.Log(c.s.Logs())
	}
	if err := c.s.StopSpawned(); err != nil {
		c.Error(err)
	}
	ctx := context.WithoutCancel(c.Context())
	if list, err := c.cri.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{}); err != nil {
		c.Error(err)
	} else {
		for _, pod := range list.Items {
			if _, err := c.cri.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
				c.Error(err)
			}
			if _, err := c.cri.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
				c.Error(err)
			}
		}
	}
	// The kubelet makes its directory a mount, to share those below it with containers.
	if err := errors.Join(c.conn.Close(), mount.UnmountAll(c.path("kubelet"), 0), c.s.Close()); err != nil {
		c.Error(err)
	}
	if err := (linux.Cgroup{Path: c.cgroups()}).Remove(); err != nil {
		c.Error(err)
	}
}

// cgroups is the one below which the kubelet makes its own.
func (c *cluster) cgroups() string { return "/" + filepath.Base(c.s.Dir) + "-pods" }

func (c *cluster) path(name string) string { return filepath.Join(c.s.Dir, name) }

func (c *cluster) write(name, text string) (path string) {
	c.Helper()
	path = c.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		c.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		c.Fatal(err)
	}
	return path
}

func (c *cluster) spawn(name string, args ...string) {
	c.Helper()
	if err := c.s.Spawn(name, args...); err != nil {
		c.Fatal("these tests need what `make kubernetes` makes: ", err)
	}
}

// startServer starts etcd, the API server, controllers and scheduler.
func (c *cluster) startServer() {
	c.Helper()
	c.spawn("etcd", "--data-dir", c.path("etcd"), "--log-level=warn")
	key := c.write("account.key", c.newKey())
	c.spawn("kube-apiserver", "--etcd-servers=http://127.0.0.1:2379", "--bind-address=127.0.0.1", "--advertise-address="+nodeAddress, "--cert-dir="+c.path("apiserver"),
		// One server, whose address is nobody's service.
		"--endpoint-reconciler-type=none", "--kubelet-preferred-address-types=InternalIP", "--service-cluster-ip-range=10.96.0.0/24",
		"--service-account-issuer="+server, "--service-account-key-file="+key, "--service-account-signing-key-file="+key,
		"--token-auth-file="+c.write("tokens", token+",admin,admin,system:masters\n"), "--authorization-mode=AlwaysAllow",
		// Pods have no token: there is no controller here that makes accounts.
		"--disable-admission-plugins=ServiceAccount")
	c.write("kubeconfig", fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %q}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`, server, token))
	c.await("the API server", func() error { return c.try("get", "--raw", "/readyz") })
	c.spawn("kube-controller-manager", "--kubeconfig="+c.path("kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1",
		"--controllers=deployment-controller,replicaset-controller,node-lifecycle-controller,garbage-collector-controller")
	c.spawn("kube-scheduler", "--kubeconfig="+c.path("kubeconfig"), "--leader-elect=false", "--bind-address=127.0.0.1")
}

// newKey signs the tokens of service accounts, which the API server insists on.
func (c *cluster) newKey() string {
	c.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		c.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		c.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}))
}

// startNode starts the kubelet and waits until its node is ready.
func (c *cluster) startNode() {
	c.Helper()
	// With cgroup v1 the kubelet wants its root to exist in each hierarchy.
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	if err != nil {
		c.Fatal(err)
	}
	for _, procs := range hierarchies {
		if err := os.MkdirAll(filepath.Join(filepath.Dir(procs), c.cgroups()), 0o755); err != nil {
			c.Fatal(err)
		}
	}
	if err := os.MkdirAll(c.path("manifests"), 0o700); err != nil {
		c.Fatal(err)
	}
	config := c.write("kubelet.yaml", fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
containerRuntimeEndpoint: "unix://%s"
cgroupDriver: cgroupfs
cgroupRoot: %q
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: []
makeIPTablesUtilChains: false
oomScoreAdj: 0
podLogsDir: %q
staticPodPath: %q
volumePluginDir: %q
evictionHard: {memory.available: "50Mi", nodefs.available: "1%%"}
`, c.s.Address(), c.cgroups(), c.path("logs"), c.path("manifests"), c.path("plugins")))
	c.spawn("kubelet", "--config="+config, "--kubeconfig="+c.path("kubeconfig"), "--hostname-override=node", "--node-ip="+nodeAddress,
		"--root-dir="+c.path("kubelet"), "--cert-dir="+c.path("kubelet-pki"))
	c.await("the node", func() error { return c.try("wait", "--for=condition=Ready", "node/node", "--timeout=30s") })
}

// await tries until it works. Programs that start give no other sign.
func (c *cluster) await(what string, try func() error) {
	c.Helper()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(startTimeout); ; <-tick.C {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			c.Fatalf("%s: %v", what, err)
		}
	}
}

// try runs kubectl.
func (c *cluster) try(args ...string) error {
	_, err := c.output(args...)
	return err
}

func (c *cluster) output(args ...string) (string, error) {
	k := c.s.Command(context.WithoutCancel(c.Context()), "kubectl", append([]string{"--kubeconfig=" + c.path("kubeconfig"), "--cache-dir=" + c.path("kubectl")}, args...)...)
	var stdout, stderr bytes.Buffer
	k.Stdout, k.Stderr = &stdout, &stderr
	if err := k.Run(); err != nil {
		return "", fmt.Errorf("kubectl %v: %w: %s", args, err, stderr.String())
	}
	return strings.TrimSpace(stdout.String()), nil
}

// kubectl is output of a command that must work.
func (c *cluster) kubectl(args ...string) string {
	c.Helper()
	out, err := c.output(args...)
	if err != nil {
		c.Fatal(err)
	}
	return out
}
