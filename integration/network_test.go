package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containernetworking/cni/libcni"
	types "github.com/containernetworking/cni/pkg/types/100"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// netHost is a host's network and the directories of its CNI, without the host: bridges, addresses and rules are made in a network namespace, and files in overlays over
// /etc, /opt and /var/lib. They go with it.
type netHost struct{ net, mnt *os.File }

func newNetHost(t *testing.T) netHost {
	t.Helper()
	layers := t.TempDir()
	ns, err := linux.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	h := netHost{net: ns}
	err = linux.Enter(nil, func() (err error) {
		if err := linux.PrivateMounts(); err != nil {
			return err
		}
		for _, dir := range []string{"/etc", "/opt", "/var/lib"} {
			upper, work := filepath.Join(layers, dir, "upper"), filepath.Join(layers, dir, "work")
			for _, made := range []string{upper, work} {
				if err := os.MkdirAll(made, 0o755); err != nil {
					return err
				}
			}
			if err := linux.Overlay(dir, []string{"lowerdir=" + dir, "upperdir=" + upper, "workdir=" + work}); err != nil {
				return err
			}
		}
		h.mnt, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = h.net.Close(), h.mnt.Close() })
	h.install(t)
	return h
}

// install puts contrib's network and the plugins where programs look for them that nobody tells.
func (h netHost) install(t *testing.T) {
	t.Helper()
	list, err := os.ReadFile("../contrib/cni/10-sprout.conflist")
	if err != nil {
		t.Fatal(err)
	}
	plugins := filepath.Join(outDir(), "bin") // inside, there is another working directory
	h.enter(t, func() error {
		for _, dir := range []string{confDir, filepath.Dir(pluginDir)} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(confDir, "10-sprout.conflist"), list, 0o600); err != nil {
			return err
		}
		return os.Symlink(plugins, pluginDir)
	})
}

// Where CNI is configured, and where its plugins are, unless one says otherwise.
const confDir, pluginDir = "/etc/cni/net.d", "/opt/cni/bin"

// enter runs fn, and the programs that it starts, on the host.
func (h netHost) enter(t *testing.T, fn func() error) {
	t.Helper()
	if err := linux.Enter([]linux.NS{{File: h.net}, {File: h.mnt}}, fn); err != nil {
		t.Fatal(err)
	}
}

// env tells networkHook where this is.
func (h netHost) env(verb string) []string {
	of := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()) }
	return []string{"PATH=" + os.Getenv("PATH"), fmt.Sprintf("%s=network %s %s %s", hookEnv, verb, of(h.net), of(h.mnt))}
}

// published is the host's port at which a container with networkHook answers.
const published = 18080

// networkHook does what nerdctl's hook does for `nerdctl run -p`: it has the plugins put the network namespace of the state's process on the network.
func networkHook(arg string) error {
	var verb, netns, mntns string
	if _, err := fmt.Sscan(arg, &verb, &netns, &mntns); err != nil {
		return err
	}
	var state specs.State
	if err := json.NewDecoder(os.Stdin).Decode(&state); err != nil {
		return err
	}
	var namespaces []linux.NS
	for _, path := range []string{netns, mntns} {
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		namespaces = append(namespaces, linux.NS{File: f})
	}
	return linux.Enter(namespaces, func() error {
		if verb == "del" {
			return plug(state.ID, "", (*libcni.CNIConfig).DelNetworkList)
		}
		return plug(state.ID, fmt.Sprintf("/proc/%d/ns/net", state.Pid), add)
	})
}

// add connects a container.
func add(c *libcni.CNIConfig, ctx context.Context, l *libcni.NetworkConfigList, r *libcni.RuntimeConf) error {
	_, err := c.AddNetworkList(ctx, l, r)
	return err
}

// plug does something with the network of contrib for a container.
func plug(id, netns string, do func(*libcni.CNIConfig, context.Context, *libcni.NetworkConfigList, *libcni.RuntimeConf) error) error {
	list, err := libcni.NetworkConfFromFile(filepath.Join(confDir, "10-sprout.conflist"))
	if err != nil {
		return err
	}
	return do(libcni.NewCNIConfig([]string{pluginDir}, nil), context.Background(), list, &libcni.RuntimeConf{
		ContainerID: id, NetNS: netns, IfName: "eth0",
		CapabilityArgs: map[string]any{"portMappings": []map[string]any{{"hostPort": published, "containerPort": 8080, "protocol": "tcp"}}},
	})
}

// address is the one that a container has got.
func (h netHost) address(t *testing.T, id string) (ip string) {
	t.Helper()
	h.enter(t, func() error {
		files, err := filepath.Glob("/var/lib/cni/results/*-" + id + "-eth*")
		if err != nil || len(files) != 1 {
			return fmt.Errorf("results of %s: %v, %w", id, files, err)
		}
		data, err := os.ReadFile(files[0])
		if err != nil {
			return err
		}
		var cached struct{ Result types.Result }
		if err := json.Unmarshal(data, &cached); err != nil {
			return err
		}
		ip = cached.Result.IPs[0].Address.IP.String()
		return nil
	})
	return ip
}

// asks waits until an app answers on the host.
func (h netHost) asks(t *testing.T, address string) {
	t.Helper()
	h.enter(t, func() error {
		for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(time.Millisecond) {
			said, err := askAt(address)
			if err == nil && strings.HasPrefix(said, "HTTP/1.0 200") {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s: %q, %w", address, said, err)
			}
		}
	})
}

// askAt speaks HTTP from this thread: the standard client would from another, which is elsewhere.
func askAt(address string) (string, error) {
	conn, err := net.DialTimeout("tcp4", address, time.Second)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return "", err
	}
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	said, err := io.ReadAll(conn)
	return string(said), err
}

// TestContainersAnswerOnTheNetworkThatTheyAreGiven has them networked as ctr does it, between create and start, as nerdctl does it, by hooks, and as a kubelet does it, before
// there is a container.
func TestContainersAnswerOnTheNetworkThatTheyAreGiven(t *testing.T) {
	h := newNetHost(t)
	for _, way := range bound {
		t.Run(way.name, func(t *testing.T) {
			s := way.ready(t)
			t.Run("ctr", func(t *testing.T) { h.byCtr(t, s, way) })
			if way.rung != "cold" { // booting takes a while, and is not ours
				t.Run("hook", func(t *testing.T) { h.byHook(t, s, way) })
			}
			if way.rung != "cold" && way.rung != "thaw" { // a spare has a namespace of its own
				t.Run("namespace", func(t *testing.T) { h.before(t, s, way) })
			}
		})
	}
}

func (h netHost) byCtr(t *testing.T, s *stack.Stack, way wake) {
	id := "cni-" + way.name
	args := []string{"--address", s.Address(), "--namespace", s.Namespace, "run", "-d", "--cni", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter}
	if way.rung == "cold" {
		args = append(args, "--env", "IN_NO_SEED=1")
	}
	ctr := s.Command(t.Context(), "ctr", append(args, stack.Ref("python-demo"), id)...)
	var out bytes.Buffer
	ctr.Stdout, ctr.Stderr = &out, &out
	t.Cleanup(func() { remove(t, s, id) })
	h.enter(t, func() error {
		if err := ctr.Run(); err != nil {
			return fmt.Errorf("%w: %s", err, out.String())
		}
		return nil
	})
	wantRung(t, s, id, way.rung)
	h.asks(t, net.JoinHostPort(h.address(t, s.Namespace+"-"+id), "8080"))
}

func (h netHost) byHook(t *testing.T, s *stack.Stack, way wake) {
	id := "hook-net-" + way.name
	task := create(t, s, id, "python-demo", cio.NullIO, withHooks(&specs.Hooks{
		CreateRuntime: []specs.Hook{{Path: self(), Env: h.env("add")}},
		Poststop:      []specs.Hook{{Path: self(), Env: h.env("del")}},
	}))
	if err := task.Start(s.Context(t.Context())); err != nil {
		t.Fatal(err)
	}
	wantRung(t, s, id, way.rung)
	h.asks(t, net.JoinHostPort(h.address(t, id), "8080"))
	h.asks(t, fmt.Sprintf("10.89.0.1:%d", published))
	remove(t, s, id)
	h.enter(t, func() error {
		left, err := filepath.Glob("/var/lib/cni/*/*" + id + "*")
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("left: %v", left)
		}
		return err
	})
}

func (h netHost) before(t *testing.T, s *stack.Stack, way wake) {
	id := "named-net-" + way.name
	ns, err := linux.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	path := fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), ns.Fd())
	h.enter(t, func() error { return plug(id, path, add) })
	run(t, s, id, "python-demo", "--with-ns", "network:"+path)
	wantRung(t, s, id, way.rung)
	h.asks(t, net.JoinHostPort(h.address(t, id), "8080"))
	h.enter(t, func() error { return plug(id, path, (*libcni.CNIConfig).DelNetworkList) })
}
