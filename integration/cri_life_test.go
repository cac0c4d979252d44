package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"
	runtime "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/sproutrun/sprout/integration/stack"
)

// podThatIsSetUp has what many pods have: an init container that fills a volume, an app that runs as the image's own user, and a client that attaches to it.
func (n *node) podThatIsSetUp(rung, image string) {
	n.Helper()
	first := n.pod("set-up-first")
	cold := first.setUp(image)
	first.bakeLike(cold, image, image, "--ready", "log=^ready$", "--late-mount", "/volume")
	p := n.pod("set-up-second")
	woken := p.setUp(image)
	wantRung(n.T, n.s, woken, rung)
	p.inPod(woken)
	p.attaches(woken)

	const look = "id; grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp)' /proc/1/status; ls -ln /proc/1/fd/ | awk '{print $1, $3, $4}'; touch /etc/mine; cat /volume/made"
	want := strings.ReplaceAll(first.exec(cold, "sh", "-c", look), "set-up-first", "set-up-second")
	if got := p.exec(woken, "sh", "-c", look); got != want || !strings.Contains(got, "by init of set-up-second") {
		n.Errorf("woken:\n%s\nbooted:\n%s", got, want)
	}
}

// setUp runs a pod's init container to its end, and then starts its app.
func (p *pod) setUp(image string) (id string) {
	p.Helper()
	volume := filepath.Join(p.logs, p.config.Metadata.Name, "volume")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		p.Fatal(err)
	}
	mounted := func(c *runtime.ContainerConfig) {
		c.Mounts = append(c.Mounts, &runtime.Mount{ContainerPath: "/volume", HostPath: volume})
	}
	init := p.start("init", stack.SandboxImage, 0, mounted, func(c *runtime.ContainerConfig) {
		c.Command = []string{"sh", "-c", "echo by init of $POD >/volume/made; exit 3"}
	})
	eventually(p.T, func() error {
		got, err := p.cri.ContainerStatus(p.Context(), &runtime.ContainerStatusRequest{ContainerId: init})
		if err == nil && (got.Status.State != runtime.ContainerState_CONTAINER_EXITED || got.Status.ExitCode != 3) {
			err = fmt.Errorf("the init container: %v", got.Status)
		}
		return err
	})
	return p.start("app", image, 0, mounted, func(c *runtime.ContainerConfig) {
		c.Command, c.Stdin = []string{"perl", "-e", witnessed}, true
	})
}

// attaches speaks with a container's streams as kubectl attach does: in frames that begin with the number of a stream.
func (p *pod) attaches(id string) {
	p.Helper()
	const stdin, stdout, stderr = 0, 1, 2
	got, err := p.cri.Attach(p.Context(), &runtime.AttachRequest{ContainerId: id, Stdin: true, Stdout: true, Stderr: true})
	if err != nil {
		p.Fatal(err)
	}
	config, err := websocket.NewConfig(strings.Replace(got.Url, "http", "ws", 1), "http://localhost")
	if err != nil {
		p.Fatal(err)
	}
	config.Protocol = []string{"v4.channel.k8s.io"}
	conn, err := config.DialContext(p.Context())
	if err != nil {
		p.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		p.Fatal(err)
	}
	if err := websocket.Message.Send(conn, append([]byte{stdin}, "say hello\ncomplain aloud\n"...)); err != nil {
		p.Fatal(err)
	}
	said := map[byte]string{}
	for said[stdout] != "hello\n" || said[stderr] != "aloud\n" {
		var frame []byte
		if err := websocket.Message.Receive(conn, &frame); err != nil {
			p.Fatalf("after %q: %v", said, err)
		}
		if len(frame) > 0 {
			said[frame[0]] += string(frame[1:])
		}
	}
}

// TestContainersOfPodsThatAreRestartedLeaveNothing starts fifty, one after the other, as a kubelet does with a static pod: ten times in a new sandbox.
func TestContainersOfPodsThatAreRestartedLeaveNothing(t *testing.T) {
	const pods, starts = 10, 5
	n := newNode(t, stack.Restoring, stack.SandboxImage)
	witness := func(c *runtime.ContainerConfig) { c.Command = []string{"perl", "-e", witnessed} }
	first := n.pod("first")
	cold := first.start("app", stack.SandboxImage, 0, witness)
	first.bakeLike(cold, "witness", stack.SandboxImage, "--ready", "log=^ready$")
	before := rested(t, n.s)
	for round := range pods {
		t.Run(fmt.Sprint(round), func(t *testing.T) {
			n := *n
			n.T = t
			p := n.pod(fmt.Sprint("round-", round))
			for attempt := range uint32(starts) {
				id := p.start("app", stack.SandboxImage, attempt, witness)
				wantRung(t, n.s, id, "restore")
				if _, err := n.cri.StopContainer(t.Context(), &runtime.StopContainerRequest{ContainerId: id}); err != nil {
					t.Fatal(err)
				}
				if _, err := n.cri.RemoveContainer(t.Context(), &runtime.RemoveContainerRequest{ContainerId: id}); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
	if left := settled(t, n.s, before); len(left) > 0 {
		t.Errorf("after %d starts:\n%s", pods*starts, strings.Join(left, "\n"))
	}
	for _, pattern := range []string{filepath.Join(n.s.Dir, "runc", "*", "*"), filepath.Join(n.s.Dir, "addresses", "pods", "10.*")} {
		left, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		if of := map[bool]int{true: 2, false: 1}[strings.Contains(pattern, "runc")]; len(left) != of {
			t.Errorf("%v, want %d: of the pod that still runs", left, of)
		}
	}
}
