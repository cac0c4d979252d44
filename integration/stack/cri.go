package stack

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// What a stack with pods has.
const (
	// CRINamespace is where the CRI plugin keeps its containers.
	CRINamespace = "k8s.io"
	// SandboxImage is the image of a pod's first container, which only waits.
	SandboxImage = "tiny-demo"
	// RuntimeHandler is what a pod names to be run by sprout.
	RuntimeHandler = "sprout"
	// RuncHandler is what it is compared with.
	RuncHandler = "runc"
)

// noCRI are the plugins that a stack without pods does without.
const noCRI = `"io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", `

// configureCRI is the part of containerd's configuration about pods, and what is disabled if there are none. runc's states are the stack's own: a host with a kubelet
// has others under the same namespace.
func (s *Stack) configureCRI() (disabled, pods string, err error) {
	if !s.cri {
		return noCRI, "", nil
	}
	network := fmt.Sprintf(`{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "bridge", "bridge": %q, "isGateway": %t, "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.0.0/16"}]]}}]}
`, s.bridge(), s.gateway, s.path("addresses"))
	if err := os.Mkdir(s.path("cni"), 0o700); err != nil {
		return "", "", err
	}
	if err := os.WriteFile(filepath.Join(s.path("cni"), "pods.conflist"), []byte(network), 0o600); err != nil {
		return "", "", err
	}
	return "", fmt.Sprintf(`
[plugins.'io.containerd.grpc.v1.cri']
  stream_server_address = "127.0.0.1"
[plugins.'io.containerd.cri.v1.images']
  [plugins.'io.containerd.cri.v1.images'.pinned_images]
    sandbox = %[2]q
  [plugins.'io.containerd.cri.v1.images'.runtime_platforms.%[5]s]
    snapshotter = %[1]q
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = [%[3]q]
    conf_dir = %[4]q
  [plugins.'io.containerd.cri.v1.runtime'.containerd]
    default_runtime_name = %[5]q
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[5]s]
      runtime_type = %[6]q
      snapshotter = %[1]q
      pod_annotations = ["sprout.dev/*"]
      container_annotations = ["sprout.dev/*"]
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[5]s.options]
        Root = %[7]q
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[8]s]
      runtime_type = %[9]q
      [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.%[8]s.options]
        Root = %[7]q
`, Snapshotter, Ref(SandboxImage), s.bin(""), s.path("cni"), RuntimeHandler, Runtime, s.path("runc"), RuncHandler, RuncRuntime), nil
}

// bridge is the device that the pods hang on. Without PodGateway it has no address: they reach each other and nothing else, and no setting of the host's is changed for it.
func (s *Stack) bridge() string {
	const longest = 15 // IFNAMSIZ
	name := filepath.Base(s.Dir)
	return name[max(0, len(name)-longest):]
}

// removeBridge removes what the bridge plugin leaves.
func (s *Stack) removeBridge() error {
	if !s.cri {
		return nil
	}
	link, err := netlink.LinkByName(s.bridge())
	if errors.As(err, new(netlink.LinkNotFoundError)) {
		return nil
	}
	if err != nil {
		return err
	}
	return netlink.LinkDel(link)
}

// Pods is a client of the CRI plugin; the caller closes the connection.
func (s *Stack) Pods() (runtime.RuntimeServiceClient, *grpc.ClientConn, error) {
	conn, err := grpc.NewClient("unix://"+s.Address(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to the CRI plugin: %w", err)
	}
	return runtime.NewRuntimeServiceClient(conn), conn, nil
}
