package integration

//lint:file-ignore SA1019 prestart hooks are deprecated for those who write specs; nerdctl and others still do.

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/integration/stack"
)

// hookEnv makes this binary a hook (TestMain): what it is to do, and where it keeps what it has seen.
const hookEnv = "SPROUT_TEST_HOOK"

// runHook is the hook that a value of hookEnv asks for.
func runHook(asked string) error {
	kind, arg, _ := strings.Cut(asked, " ")
	if kind == "network" {
		return networkHook(arg)
	}
	seen, err := seenByHook()
	if err != nil {
		return err
	}
	data, err := json.Marshal(seen)
	if err != nil {
		return err
	}
	return os.WriteFile(arg, data, 0o600)
}

// hookView is what a hook is told, where it is and what it may.
type hookView struct {
	State      map[string]any
	Args, Env  []string
	Dir        string
	Root       []string
	Namespaces map[string]string
	Status     []string
}

func seenByHook() (v hookView, err error) {
	input, err := io.ReadAll(os.Stdin)
	if err != nil {
		return v, err
	}
	if err := json.Unmarshal(input, &v.State); err != nil {
		return v, fmt.Errorf("state %q: %w", input, err)
	}
	v.Args, v.Env = os.Args[1:], os.Environ()
	if v.Dir, err = os.Getwd(); err != nil {
		return v, err
	}
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return v, err
	}
	all := lines(string(status))
	for _, name := range []string{"Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigBlk", "SigIgn"} {
		v.Status = append(v.Status, name+" "+all[name])
	}
	// Of the container's files: below the bundle, where hooks look for them, what its image has is there.
	bundle, _ := v.State["bundle"].(string)
	entries, _ := os.ReadDir(filepath.Join(bundle, "rootfs")) // gone when the container is
	for _, entry := range entries {
		v.Root = append(v.Root, entry.Name())
	}
	v.Namespaces = namespacesOf("self")
	return v, nil
}

// namespacesOf are those of a process by kind.
func namespacesOf(pid string) map[string]string {
	all := make(map[string]string)
	for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "user", "uts"} {
		all[kind], _ = os.Readlink(filepath.Join("/proc", pid, "ns", kind)) // empty where there is none to see
	}
	return all
}

// inContainer is a startContainer hook: it finds only what the image has, and tells the same. An instance that was restored has a time namespace, which is left out.
const inContainer = `{ cat; echo; pwd; id; echo "$0 $* $GREETING"; grep -E '^(Umask|Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp|SigBlk|SigIgn)' /proc/self/status; readlink /proc/self/ns/[a-su]*; ls /; } >/tmp/hook; mv /tmp/hook /tmp/hooked`

// recorders are hooks of all kinds that keep what they see in files of a directory.
func recorders(dir string) *specs.Hooks {
	of := func(kind string) specs.Hook {
		return specs.Hook{Path: self(), Args: []string{"hook", kind, "an argument"}, Env: []string{hookEnv + "=record " + filepath.Join(dir, kind), "GREETING=hello"}}
	}
	return &specs.Hooks{
		Prestart:        []specs.Hook{of("prestart")},
		CreateRuntime:   []specs.Hook{of("createRuntime")},
		CreateContainer: []specs.Hook{of("createContainer")},
		StartContainer:  []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", inContainer, "hook", "an argument"}, Env: []string{"PATH=/usr/bin:/bin", "GREETING=hello"}}},
		Poststart:       []specs.Hook{of("poststart")},
		Poststop:        []specs.Hook{of("poststop")},
	}
}

// self is the path of this binary.
func self() string {
	path, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return path
}

func withHooks(hooks *specs.Hooks) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
		s.Hooks = hooks
		s.Annotations = map[string]string{"example.org/who": "me"}
		return nil
	}
}

// bound are cold, and the ways in which an instance comes to its container: a spare is a spare, whether it was restored or cloned.
var bound = slices.DeleteFunc(slices.Clone(columns), func(w wake) bool { return w.name == "thaw-clone" })

// TestHooksSeeWhatRuncWouldShowThem has hooks of every kind run by runc and on each rung, and compares what they see.
func TestHooksSeeWhatRuncWouldShowThem(t *testing.T) {
	var want map[string]any
	for _, way := range bound {
		t.Run(way.name, func(t *testing.T) {
			c := way.witnesses(t, 1)
			if want == nil {
				want = hooked(t, c, stack.RuncRuntime)
			}
			got := hooked(t, c, stack.Runtime)
			if way.rung != "cold" {
				// When the app runs, as the specification has it. runc runs them before it starts it.
				want["poststart"].(map[string]any)["State"].(map[string]any)["status"] = "running"
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("hooks see other things than runc shows them:\n%s", diff)
			}
		})
	}
}

// hooked is what the hooks of a container see, with what differs from container to container named by what it is.
func hooked(t *testing.T, c column, runtime string) map[string]any {
	t.Helper()
	dir, id := t.TempDir(), "hooked-"+c.name
	if runtime != stack.Runtime {
		id = "hooked-runc"
	}
	ctx := c.s.Context(t.Context())
	opts := []oci.SpecOpts{oci.WithProcessArgs("perl", "-e", witnessed), withHooks(recorders(dir))}
	if c.rung == "cold" {
		opts = append(opts, oci.WithEnv([]string{"IN_NO_SEED=1"}))
	}
	task := createBy(t, c.s, id, "tiny-demo", runtime, cio.NullIO, opts...)
	exit, err := task.Wait(ctx)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	if runtime == stack.Runtime {
		wantRung(t, c.s, id, c.rung)
	}
	named := strings.NewReplacer(append(namesOf(c.s, id, int(task.Pid())), dir, "DIR")...)
	var inside []byte
	eventually(t, func() (err error) { // runc does not wait for it
		inside, err = os.ReadFile(fmt.Sprintf("/proc/%d/root/tmp/hooked", task.Pid()))
		return err
	})
	seen := map[string]any{"startContainer": strings.Split(named.Replace(string(inside)), "\n")}
	if err := task.Kill(ctx, 9); err != nil {
		t.Fatal(err)
	}
	waitExit(t, exit)
	if _, err := task.Delete(ctx); err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{"prestart", "createRuntime", "createContainer", "poststart", "poststop"} {
		data, err := os.ReadFile(filepath.Join(dir, kind))
		if err != nil {
			t.Error(err)
			continue
		}
		var v any
		if err := json.Unmarshal([]byte(named.Replace(string(data))), &v); err != nil {
			t.Fatal(err)
		}
		seen[kind] = v
	}
	return seen
}

// namesOf are pairs for a Replacer: what is another for each container, and what it is.
func namesOf(s *stack.Stack, id string, pid int) []string {
	bundle := filepath.Join(s.Dir, "state", "io.containerd.runtime.v2.task", s.Namespace, id)
	pairs := []string{bundle, "BUNDLE", id, "ID", fmt.Sprintf(`"pid":%d,`, pid), `"pid":"its",`, fmt.Sprintf(`"pid":%d}`, pid), `"pid":"its"}`}
	host, its := namespacesOf("self"), namespacesOf(fmt.Sprint(pid))
	for kind, ns := range its {
		who := "its " + kind
		if ns == host[kind] {
			who = "the host's " + kind
		}
		pairs = append(pairs, ns, who, host[kind], "the host's "+kind)
	}
	return pairs
}
