package integration

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/integration/stack"
)

// intruder is a program that tries, in a container, to get at what is outside, and says what came of it.
//
//go:embed testdata/intruder.py
var intruder string

// victim is the app of the containers: it has files, sockets and memory to write to.
var victim = []string{"python3", "-c", `import mmap, socket, time
log = open("/var/log/app", "w+b")
log.truncate(4096)
shared = mmap.mmap(log.fileno(), 4096)
pair = socket.socketpair()
print("ready", flush=True)
while True: time.sleep(1000)`}

// privileges are those that a container has by default, and those with which it could do most.
var privileges = []struct {
	name string
	args []string
	own  bool // its network is its own: it can be thawed
}{
	{"usual", nil, true},
	{"administrator", []string{"--cap-add", "CAP_SYS_ADMIN", "--cap-add", "CAP_SYS_PTRACE", "--net-host"}, false},
}

func TestAnIntruderFindsWhatItWouldFindInAContainerOfRuncs(t *testing.T) {
	for _, p := range privileges {
		for _, way := range wakes {
			if !p.own && way.rung == "thaw" {
				continue
			}
			t.Run(p.name+"/"+way.name, func(t *testing.T) {
				s := house
				if way.clones {
					s = forking(t)
				}
				intrudes(t, s, way, false, p.name, p.args)
			})
		}
	}
}

func TestAnIntruderCannotWriteToSharedMemory(t *testing.T) {
	t.Parallel()
	p := privileges[1]
	intrudes(t, configuredStack(t, sharing, "python-demo"), wakes[1], true, p.name, p.args)
}

// intrudes compares what an intruder finds in a container that was woken, and in one like it that runc has started.
func intrudes(t *testing.T, s *stack.Stack, way wake, shares bool, name string, args []string) {
	t.Helper()
	seed, twin, id := "victim-"+name, "victim-"+name+"-runc", "victim-"+name+"-"+way.name
	start := func(runtime, id string) {
		list := append([]string{"run", "-d", "--runtime", runtime, "--snapshotter", stack.Snapshotter}, args...)
		if _, err := s.Ctr(t.Context(), append(append(list, stack.Ref("python-demo"), id), victim...)...); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Client.LoadContainer(s.Context(t.Context()), twin); err != nil {
		start(stack.RuncRuntime, twin)
	}
	baked(t, s, seed, "python-demo", "--like", twin, "--ready", "log=^ready$")
	if way.rung == "fork" {
		setPool(t, s, seed, 1) // so that the template stands
	}
	setPool(t, s, seed, min(way.spares, 1))
	start(stack.Runtime, id)
	t.Cleanup(func() { remove(t, s, id) })
	wantRung(t, s, id, way.rung)
	if diff := cmp.Diff(expected(intrude(t, s, twin), way, shares), intrude(t, s, id)); diff != "" {
		t.Errorf("it finds other things than in a container that runc started:\n%s", diff)
	}
	noAbstractSockets(t, s)
}

// intrude runs the intruder in a container. It looks for the processes of the whole stack.
func intrude(t *testing.T, s *stack.Stack, id string) map[string]any {
	t.Helper()
	args := []string{"--address", s.Address(), "--namespace", s.Namespace, "task", "exec", "--exec-id", "intruder", id, "env", "ID=" + id, "python3", "-c", intruder}
	for _, pid := range ours(s) {
		args = append(args, strconv.Itoa(pid))
	}
	out, err := s.Command(t.Context(), "ctr", args...).Output()
	if err != nil {
		t.Fatal(err, string(out))
	}
	facts := make(map[string]any)
	if err := json.Unmarshal(out, &facts); err != nil {
		t.Fatal(err, string(out))
	}
	return facts
}

// expected is what the intruder should find in a woken container, from what it finds in runc's.
func expected(facts map[string]any, way wake, shares bool) map[string]any {
	facts["mounts"] = append(facts["mounts"].([]any), "/run/sprout / rw,nosuid,nodev,noexec,relatime tmpfs sprout")
	slices.SortFunc(facts["mounts"].([]any), func(a, b any) int { return strings.Compare(a.(string), b.(string)) })
	writes := facts["mappings written"].(map[string]any)
	if shares {
		writes["/sprout-store-1"] = "EROFS"
		facts["mappings read"].(map[string]any)["/sprout-store-1"] = "done"
	}
	if way.clones {
		// A clone's program and libraries are on the mounts of its template, where nobody can change anything.
		facts["program touched"] = "EROFS"
		for path, result := range writes {
			if result == "done" && path != "/var/log/app" {
				writes[path] = "EROFS"
			}
		}
	}
	return facts
}

// ours are the processes of a stack.
func ours(s *stack.Stack) []int { return append(s.Processes(), s.SproutdPID(), s.ContainerdPID()) }

// noAbstractSockets: one could be reached from every container that has the host's network.
func noAbstractSockets(t *testing.T, s *stack.Stack) {
	t.Helper()
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		t.Fatal(err)
	}
	abstract := make(map[string]string)
	for line := range strings.Lines(string(table)) {
		if fields := strings.Fields(line); len(fields) > 7 && strings.HasPrefix(fields[7], "@") {
			abstract["socket:["+fields[6]+"]"] = fields[7]
		}
	}
	for _, pid := range ours(s) {
		links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, link := range links {
			target, _ := os.Readlink(link) // it may be closed by now
			if name, found := abstract[target]; found {
				t.Errorf("process %d has socket %s", pid, name)
			}
		}
	}
}
