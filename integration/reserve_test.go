package integration

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// launched is a shim that the launcher was asked for, as containerd does it, and that gets no CreateTask.
type launched struct {
	*testing.T
	s          *stack.Stack
	id, bundle string
	cgroup     linux.Cgroup
}

func launch(t *testing.T, s *stack.Stack, id, image string) *launched {
	t.Helper()
	ctx := s.Context(t.Context())
	img, err := s.Client.GetImage(ctx, stack.Ref(image))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Client.NewContainer(ctx, id, containerd.WithImage(img), containerd.WithSnapshotter(stack.Snapshotter), containerd.WithNewSnapshot(id, img),
		containerd.WithRuntime(stack.Runtime, nil), containerd.WithNewSpec(oci.WithDefaultUnixDevices, oci.WithImageConfig(img)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s, id) })
	spec, err := c.Spec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	l := &launched{T: t, s: s, id: id, bundle: filepath.Join(t.TempDir(), id), cgroup: linux.Cgroup{Path: spec.Linux.CgroupsPath}}
	data, err := json.Marshal(spec)
	if err == nil {
		err = os.MkdirAll(filepath.Join(l.bundle, "rootfs"), 0o711)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(l.bundle, "config.json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	// As containerd does: nothing is reserved for a shim to which nobody connects.
	var said struct{ Address string }
	if err := json.Unmarshal(l.launcher("start"), &said); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(said.Address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return l
}

// launcher runs one verb of the launcher in the bundle, and returns what it prints.
func (l *launched) launcher(verb string) []byte {
	l.Helper()
	cmd := l.s.Command(l.Context(), "containerd-shim-sprout-v2", "-namespace", l.s.Namespace, "-id", l.id, "-address", l.s.Address(), "-bundle", l.bundle, verb)
	cmd.Dir = l.bundle
	out, err := cmd.Output()
	if err != nil {
		l.Fatalf("launcher %s: %v: %s", verb, err, out)
	}
	return out
}

// reserved waits until a spare is in the container's cgroup.
func (l *launched) reserved() {
	l.Helper()
	eventually(l.T, func() error {
		pids, err := l.cgroup.Procs()
		if err == nil && len(pids) == 0 {
			err = fmt.Errorf("cgroup %s is empty", l.cgroup.Path)
		}
		return err
	})
}

// shim is the process of the shim: the one that works in the bundle.
func (l *launched) shim() int {
	l.Helper()
	for _, pid := range program(l.T, l.s, "sprout-shim", "") {
		if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err == nil && dir == l.bundle {
			return pid
		}
	}
	l.Fatal("no shim works in the bundle")
	return 0
}

func TestSpareThatWasReservedForNothingIsGivenBack(t *testing.T) {
	seed := bakedPython(t, house)
	for name, end := range map[string]func(*launched){
		"shim forgotten":  func(*launched) {},
		"shim killed":     func(l *launched) { kill(l.T, l.shim()) },
		"shim terminated": func(l *launched) { terminate(l.T, l.shim()) },
	} {
		t.Run(name, func(t *testing.T) {
			setPool(t, house, seed, 2)
			l := launch(t, house, "reserved-"+strings.ReplaceAll(name, " ", "-"), "python-demo")
			l.reserved()
			shim := l.shim()
			end(l)
			l.launcher("delete") // as containerd does when it has lost a shim
			eventually(t, func() error {
				if slices.Contains(program(t, house, "sprout-shim", ""), shim) {
					return fmt.Errorf("shim %d lives", shim)
				}
				return nil
			})
			eventually(t, func() error {
				hierarchies, err := linux.Hierarchies()
				if err != nil {
					return err
				}
				for _, root := range hierarchies {
					if _, err := os.Stat(root + l.cgroup.Path); err == nil {
						return fmt.Errorf("cgroup %s is still in %s", l.cgroup.Path, root)
					}
				}
				return nil
			})
			eventually(t, func() error {
				root, err := linux.UnifiedRoot()
				if err != nil {
					return err
				}
				spares, err := filepath.Glob(filepath.Join(root, house.CgroupRoot(), "spares", "*", "cgroup.procs"))
				if err == nil && len(spares) != 2 {
					err = fmt.Errorf("%d spares are there: %v", len(spares), spares)
				}
				return err
			})
		})
	}
}
