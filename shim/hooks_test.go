package shim

//lint:file-ignore SA1019 prestart hooks are deprecated for those who write specs; nerdctl and others still do.

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
)

// hook is a hook that keeps its standard input and what the words print in a file of the host's.
func (b *bed) hook(name string, words ...string) specs.Hook {
	b.t.Helper()
	file := filepath.Join(b.dir, "hook-"+name)
	script := file + ".sh"
	text := fmt.Sprintf("#!/bin/sh\n{ cat; echo; %s; } >%s\n", strings.Join(append(words, "true"), "; "), file)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		b.t.Fatal(err)
	}
	return specs.Hook{Path: script, Args: []string{name, "arg"}, Env: []string{"PATH=/usr/bin:/bin"}}
}

// ran reads what a hook kept: the state and the lines it printed.
func (b *bed) ran(name string) (specs.State, string) {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.dir, "hook-"+name))
	if err != nil {
		b.t.Fatal(err)
	}
	first, rest, _ := strings.Cut(string(data), "\n")
	var state specs.State
	if err := json.Unmarshal([]byte(first), &state); err != nil {
		b.t.Fatalf("hook %s read %q: %v", name, first, err)
	}
	return state, rest
}

func TestHooksOfEveryKindRunWhereAndWhenTheyShould(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Annotations = map[string]string{"who": "me"}
	where := "readlink /proc/self/ns/net /proc/self/ns/mnt"
	spec.Hooks = &specs.Hooks{
		Prestart:        []specs.Hook{b.hook("prestart", where)}, //nolint:staticcheck // deprecated and in use
		CreateRuntime:   []specs.Hook{b.hook("createRuntime", where)},
		CreateContainer: []specs.Hook{b.hook("createContainer", where, "echo late >"+filepath.Join(b.dir, "bundles", "c1", "rootfs", "from-hook"))},
		// In the container, where /tmp is its own; stdin says what it was told.
		StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "{ cat; echo; id -u; grep NoNewPrivs /proc/self/status; cat /from-hook; } >/tmp/hook"}}},
		Poststart:      []specs.Hook{b.hook("poststart", where)},
		Poststop:       []specs.Hook{b.hook("poststop", where)},
	}
	task := b.woken(b.request("c1", spec), seedpool.RungThaw)
	pid := int(task.pid())
	read := func(pid any, kind string) string {
		link, err := os.Readlink(fmt.Sprintf("/proc/%v/ns/%s", pid, kind))
		if err != nil {
			t.Fatal(err)
		}
		return link
	}
	host := read("self", "net") + "\n" + read("self", "mnt") + "\n"
	inside := read(pid, "net") + "\n" + read(pid, "mnt") + "\n"
	check := func(name string, status specs.ContainerState, wantPID int, wantWhere string) {
		t.Helper()
		state, ran := b.ran(name)
		want := specs.State{Version: specs.Version, ID: "c1", Status: status, Pid: wantPID, Bundle: task.bundle, Annotations: spec.Annotations}
		if diff := cmp.Diff(want, state); diff != "" {
			t.Errorf("state that %s read: %s", name, diff)
		}
		if ran != wantWhere {
			t.Errorf("%s ran in %q, want %q", name, ran, wantWhere)
		}
	}
	check("prestart", specs.StateCreating, pid, host)
	check("createRuntime", specs.StateCreating, pid, host)
	check("createContainer", specs.StateCreating, 1, inside)
	b.start(task)
	check("poststart", specs.StateRunning, pid, host)
	out := b.oci("exec", "c1", "/bin/cat", "/tmp/hook")
	var state specs.State
	first, rest, _ := strings.Cut(out, "\n")
	if err := json.Unmarshal([]byte(first), &state); err != nil || state.Status != specs.StateCreated || state.Pid != 1 {
		t.Errorf("startContainer hook read %q, %v", first, err)
	}
	// What createContainer wrote below the bundle's rootfs is in the container.
	if rest != "0\nNoNewPrivs:\t1\nlate\n" {
		t.Errorf("startContainer hook ran as %q", rest)
	}
	b.kill(task, 9)
	b.ends(task, 137)
	if state, ran := b.ran("poststop"); state.Status != specs.StateStopped || ran != host {
		t.Errorf("poststop: %v in %q", state, ran)
	}
}

func TestHookThatFailsCostsTheRungAndIsUndone(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Hooks = &specs.Hooks{
		CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no such network >&2; exit 3"}}},
		Poststop:      []specs.Hook{b.hook("poststop")},
	}
	rec := b.cold(b.request("c1", spec), "thaw bind-failed", "restore bind-failed")
	for _, want := range []string{"/bin/sh", "exit status 3", "no such network"} {
		if detail := rec.start.Fallbacks[0].Detail; !strings.Contains(detail, want) {
			t.Errorf("detail %q does not say %q", detail, want)
		}
	}
	b.ran("poststop")
}

func TestHookThatHangsIsEndedAtItsTimeout(t *testing.T) {
	b := newBed(t, answering)
	b.pool.spares = 0
	spec := b.spec(b.cgroup("c1"))
	second := 1
	spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sleep", Args: []string{"sleep", "1000"}, Timeout: &second}}}
	began := time.Now()
	b.cold(b.request("c1", spec), "thaw no-spare", "restore bind-failed")
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %v", took)
	}
}

func TestPoststartHookThatFailsEndsTheTask(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/bin/false", Args: []string{"false"}}}}
	task := b.woken(b.request("c1", spec), seedpool.RungThaw)
	if _, err := task.start(b.ctx(), &taskAPI.StartRequest{ID: "c1"}); err == nil {
		t.Error("start succeeded")
	}
	b.ends(task, 137)
}

func TestStartContainerHookThatFailsLeavesTheTaskFrozen(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo sorry; exit 4"}}}}
	task := b.woken(b.request("c1", spec), seedpool.RungThaw)
	_, err := task.start(b.ctx(), &taskAPI.StartRequest{ID: "c1"})
	if err == nil || !strings.Contains(err.Error(), "sorry") {
		t.Errorf("start: %v, want what the hook said", err)
	}
	if frozen, err := task.cgroup.Frozen(); err != nil || !frozen {
		t.Errorf("frozen: %t, %v", frozen, err)
	}
	if _, err := task.delete(b.ctx(), &taskAPI.DeleteRequest{ID: "c1"}); err != nil {
		t.Error(err)
	}
	if names, err := b.leftovers(); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
}
