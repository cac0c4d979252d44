package stack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Runtime and snapshotter names as a user writes them.
const (
	Runtime     = "io.containerd.sprout.v2"
	Snapshotter = "sprout"
	// RuncRuntime and OverlaySnapshotter are what sprout is compared with.
	RuncRuntime        = "io.containerd.runc.v2"
	OverlaySnapshotter = "overlayfs"
)

// Lines of Options.Config for those who want to know how what no spare is there for is woken, whatever the default.
const (
	Restoring = "[fork]\nenabled = false\n"
	Cloning   = "[fork]\nenabled = true\n"
)

// startTimeout bounds how long a daemon may take until its socket answers.
const startTimeout = 30 * time.Second

// Options says where the stack's parts are.
type Options struct {
	// Out is the build directory: bin and images are below it.
	Out string
	// Dir is the stack's directory; empty makes one below the system's temporary directory. Unix socket paths must fit: keep it short.
	Dir string
	// Namespace is the containerd namespace; empty takes one from the directory's name.
	Namespace string
	// Log receives the daemons' output; nil drops it. It is also kept in Dir/*.log.
	Log io.Writer
	// NoSproutd leaves sproutd out: the shim then has to do without.
	NoSproutd bool
	// Config is appended to sproutd's configuration file.
	Config string
	// CRI has containerd serve Kubernetes' container runtime interface, with pods of Runtime and images of SandboxImage; the namespace must be CRINamespace.
	CRI bool
	// PodGateway gives the bridge of the pods an address, so that a kubelet's probes reach them. The bridge plugin then switches ip_forward on: only in a network namespace
	// of one's own.
	PodGateway bool
	// Env is added to the environment of both daemons.
	Env []string
}

// Stack is one running pair of daemons.
type Stack struct {
	Dir       string
	Namespace string
	Client    *containerd.Client

	out        string
	log        io.Writer
	config     string
	cri        bool
	gateway    bool
	env        []string
	containerd *daemon
	sproutd    *daemon
	others     []*daemon
}

// Start makes the directory, writes the configuration files and starts the daemons. On an error nothing is left.
func Start(ctx context.Context, o Options) (_ *Stack, err error) {
	dir := o.Dir
	if dir == "" {
		if dir, err = os.MkdirTemp("", "sprout-"); err != nil {
			return nil, err
		}
	}
	s := &Stack{Dir: dir, Namespace: o.Namespace, out: o.Out, log: o.Log, config: o.Config, cri: o.CRI, gateway: o.PodGateway, env: o.Env}
	if s.Namespace == "" {
		s.Namespace = filepath.Base(dir)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.configure(); err != nil {
		return nil, err
	}
	if !o.NoSproutd {
		if err := s.StartSproutd(ctx); err != nil {
			return nil, err
		}
	}
	if err := s.StartContainerd(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// StartContainerd starts containerd and connects to it.
func (s *Stack) StartContainerd(ctx context.Context) error {
	d, err := s.spawn("containerd", "--config", s.path("containerd.toml"))
	if err != nil {
		return err
	}
	s.containerd = d
	if err := d.waitSocket(ctx, s.Address()); err != nil {
		return err
	}
	if s.Client != nil {
		return s.Client.Reconnect()
	}
	s.Client, err = containerd.New(s.Address(), containerd.WithTimeout(startTimeout), containerd.WithDefaultRuntime(Runtime))
	if err != nil {
		return fmt.Errorf("connect to containerd: %w", err)
	}
	return nil
}

// StartSproutd starts sproutd and waits for its sockets.
func (s *Stack) StartSproutd(ctx context.Context) error {
	d, err := s.spawn("sproutd", "--config", s.path("sproutd.toml"))
	if err != nil {
		return err
	}
	s.sproutd = d
	for _, socket := range []string{"sproutd.sock", "snapshotter.sock"} {
		if err := d.waitSocket(ctx, filepath.Join(s.RunDir(), socket)); err != nil {
			return err
		}
	}
	return nil
}

// Close removes the containers, stops the daemons and deletes the directory. It reports what it could not end or remove.
func (s *Stack) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	errs := []error{s.StopSpawned()}
	if s.Client != nil {
		errs = append(errs, s.RemoveAll(ctx), s.retire(ctx), s.Client.Close())
	}
	errs = append(errs, s.containerd.stop(), s.sproutd.stop(), s.endStrays(), s.removeNamespace(), s.removeBridge())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close stack (files kept in %s): %w", s.Dir, err)
	}
	return os.RemoveAll(s.Dir)
}

// Context carries the stack's containerd namespace.
func (s *Stack) Context(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.Namespace)
}

// Address is containerd's socket, RunDir sproutd's run directory.
func (s *Stack) Address() string { return s.path("containerd.sock") }

// RunDir is sproutd's run directory.
func (s *Stack) RunDir() string { return s.path("run") }

// CgroupRoot is the cgroup below which sproutd keeps its instances.
func (s *Stack) CgroupRoot() string { return "/" + filepath.Base(s.Dir) + "-pool" }

// ContainerdPID and SproutdPID name the daemons for tests that kill them.
func (s *Stack) ContainerdPID() int { return s.containerd.pid() }

// SproutdPID is 0 when sproutd does not run.
func (s *Stack) SproutdPID() int { return s.sproutd.pid() }

// WaitContainerd and WaitSproutd return when the daemon has ended.
func (s *Stack) WaitContainerd() { <-s.containerd.done }

// WaitSproutd returns when sproutd has ended.
func (s *Stack) WaitSproutd() { <-s.sproutd.done }

func (s *Stack) path(name string) string { return filepath.Join(s.Dir, name) }

func (s *Stack) bin(name string) string { return filepath.Join(s.out, "bin", name) }

// Ctr runs ctr against the stack's containerd and namespace and returns its output; a failure carries what it printed.
func (s *Stack) Ctr(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, "ctr", append([]string{"--address", s.Address(), "--namespace", s.Namespace}, args...)...)
}

// Sprout runs the command line tool against the stack's sproutd.
func (s *Stack) Sprout(ctx context.Context, args ...string) (string, error) {
	return s.run(ctx, "sprout", args...)
}

// Command is a tool of _out/bin with the stack's environment, for callers that want its streams.
func (s *Stack) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	c := exec.CommandContext(ctx, s.bin(name), args...)
	c.Env = s.environ()
	return c
}

func (s *Stack) run(ctx context.Context, name string, args ...string) (string, error) {
	out, err := s.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s %v: %w: %s", name, args, err, out)
	}
	return string(out), nil
}

// environ is what daemons and tools see: the built binaries first on the path, and where sproutd runs.
func (s *Stack) environ() []string {
	env := append(os.Environ(),
		"PATH="+filepath.Join(s.out, "bin")+":"+os.Getenv("PATH"),
		"SPROUT_RUN_DIR="+s.RunDir(),
		"CONTAINERD_ADDRESS="+s.Address(),
		"CONTAINERD_NAMESPACE="+s.Namespace,
	)
	return append(env, s.env...)
}
