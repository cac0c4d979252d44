package shim

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	eventstypes "github.com/containerd/containerd/api/events"
	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/sproutrun/sprout/seedpool"
)

// answering is an app that answers each line of its input and ends with status 7 when it is told to.
const answering = `trap 'echo bye; exit 7' TERM; echo ready; while read line; do echo "got $line"; done; echo end; while :; do sleep 1000 & wait; done`

func (b *bed) start(task *wokenTask) {
	b.t.Helper()
	if _, err := task.start(b.ctx(), &taskAPI.StartRequest{ID: task.id}); err != nil {
		b.t.Fatal(err)
	}
}

func (b *bed) kill(task *wokenTask, signal uint32) {
	b.t.Helper()
	if _, err := task.kill(b.ctx(), &taskAPI.KillRequest{ID: task.id, Signal: signal}); err != nil {
		b.t.Fatal(err)
	}
}

// ends waits for the task and deletes it; its status must be the given one, and nothing may be left.
func (b *bed) ends(task *wokenTask, status uint32) {
	b.t.Helper()
	waited, err := task.wait(b.ctx(), &taskAPI.WaitRequest{ID: task.id})
	if err != nil || waited.ExitStatus != status {
		b.t.Fatalf("wait: %v, %v, want status %d", waited, err, status)
	}
	resp, err := task.delete(b.ctx(), &taskAPI.DeleteRequest{ID: task.id})
	if err != nil || resp.ExitStatus != status {
		b.t.Fatalf("delete: %v, %v, want status %d", resp, err, status)
	}
	if b.tasks.get(task.id) != nil || b.tasks.count() != 0 {
		b.t.Error("deleted task is still known")
	}
	if names, err := b.leftovers(); err != nil || len(names) > 0 {
		b.t.Errorf("left behind: %v %v", names, err)
	}
	kept, err := os.ReadFile(filepath.Join(task.bundle, exitFileName))
	var told exit
	if err != nil || json.Unmarshal(kept, &told) != nil || told.Status != status || told.At.IsZero() {
		b.t.Errorf("bundle tells exit %q, %v, want status %d", kept, err, status)
	}
}

func TestThawedTaskLivesAndDiesLikeAnOrdinaryOne(t *testing.T) {
	b := newBed(t, answering)
	r := b.request("c1", b.spec(b.cgroup("c1")))
	stdout := b.lines(r.Stdout)
	c := b.woken(r, seedpool.RungThaw)
	if state, err := c.state(b.ctx(), &taskAPI.StateRequest{ID: "c1"}); err != nil || state.Status != task.Status_CREATED || state.Pid != c.pid() {
		t.Errorf("before start: %v, %v, want created", state, err)
	}
	b.start(c)
	if state, err := c.state(b.ctx(), &taskAPI.StateRequest{ID: "c1"}); err != nil || state.Status != task.Status_RUNNING {
		t.Errorf("after start: %v, %v, want running", state, err)
	}
	b.writer(r.Stdin)("hello")
	b.want(stdout, "got hello")
	b.kill(c, 15)
	b.want(stdout, "bye")
	b.ends(c, 7)
	want := []string{"TaskCreate", "TaskStart", "TaskExit", "TaskDelete"}
	if diff := cmp.Diff(want, b.eventNames()); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

func TestRestoredTaskLivesInTheCgroupThatItWasRestoredIn(t *testing.T) {
	b := newBed(t, answering)
	b.pool.spares = 0
	r := b.request("c1", b.spec(b.cgroup("c1")))
	stdout := b.lines(r.Stdout)
	c := b.woken(r, seedpool.RungRestore)
	b.start(c)
	b.writer(r.Stdin)("hello")
	b.want(stdout, "got hello")
	b.kill(c, 9)
	b.ends(c, 137)
	mustHave(t, c.record.start.Phases, "restore.criu")
}

func mustHave[P interface{ GetName() string }](t *testing.T, phases []P, name string) {
	t.Helper()
	if !slices.ContainsFunc(phases, func(p P) bool { return p.GetName() == name }) {
		t.Errorf("no phase %s", name)
	}
}

func TestFrozenTaskRunsNothingBeforeItsStart(t *testing.T) {
	b := newBed(t, `echo ready; while :; do echo x; done`)
	r := b.request("c1", b.spec(b.cgroup("c1")))
	c := b.woken(r, seedpool.RungThaw)
	// It wakes for a moment to find that its new cgroup is frozen, too.
	if err := c.cgroup.Freeze(b.ctx()); err != nil {
		t.Fatal(err)
	}
	<-time.After(20 * time.Millisecond)
	before, err := c.cgroup.CPU()
	if err != nil {
		t.Fatal(err)
	}
	<-time.After(200 * time.Millisecond)
	after, err := c.cgroup.CPU()
	if err != nil || after != before {
		t.Errorf("used %v of CPU while frozen, %v", after-before, err)
	}
	b.kill(c, 9)
	b.ends(c, 137)
}

func TestTaskThatWasNotStartedCanBeKilled(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.kill(c, 9)
	b.ends(c, 137)
	want := []string{"TaskCreate", "TaskExit", "TaskDelete"}
	if diff := cmp.Diff(want, b.eventNames()); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

func TestTaskThatWasNotStartedCanBeDeleted(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	if _, err := c.delete(b.ctx(), &taskAPI.DeleteRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if names, err := b.leftovers(); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
}

func TestSignalBeforeTheStartIsDeliveredAfterIt(t *testing.T) {
	b := newBed(t, answering)
	r := b.request("c1", b.spec(b.cgroup("c1")))
	stdout := b.lines(r.Stdout)
	c := b.woken(r, seedpool.RungThaw)
	b.kill(c, 15)
	b.start(c)
	b.want(stdout, "bye")
	b.ends(c, 7)
}

func TestKillAllEndsEveryProcess(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.start(c)
	if _, err := c.kill(b.ctx(), &taskAPI.KillRequest{ID: "c1", Signal: 9, All: true}); err != nil {
		t.Fatal(err)
	}
	b.ends(c, 137)
	if _, err := c.kill(b.ctx(), &taskAPI.KillRequest{ID: "c1", Signal: 9}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("kill after the end: %v, want not found", err)
	}
}

func TestRuncTakesTheTaskForItsOwn(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.start(c)
	status := func() string {
		var s struct{ Status string }
		if err := json.Unmarshal([]byte(b.oci("state", "c1")), &s); err != nil {
			t.Fatal(err)
		}
		return s.Status
	}
	if got := status(); got != "running" {
		t.Errorf("runc state: %s, want running", got)
	}
	if out := b.oci("exec", "c1", "/bin/sh", "-c", "hostname; id -u; cat /proc/self/status | grep CapBnd; cat /proc/self/cgroup"); !strings.HasPrefix(out, "baked\n0\n") ||
		!strings.Contains(out, "CapBnd:\t00000000000004e1") || strings.Count(out, b.cgroup("c1")) < 2 {
		t.Errorf("runc exec: %s", out)
	}
	if out := b.oci("ps", "--format", "json", "c1"); !strings.Contains(out, fmt.Sprint(c.pid())) {
		t.Errorf("runc ps: %s, want %d in it", out, c.pid())
	}
	b.oci("pause", "c1")
	if got := status(); got != "paused" {
		t.Errorf("runc state: %s, want paused", got)
	}
	b.oci("resume", "c1")
	b.oci("update", "--memory", "134217728", "c1")
	if out := b.oci("events", "--stats", "c1"); !strings.Contains(out, "134217728") {
		t.Errorf("runc events: %s, want the new limit in it", out)
	}
	b.oci("kill", "c1", "KILL")
	<-c.exited
	b.oci("delete", "c1")
	b.ends(c, 137)
}

// exec adds a process and opens the client's end of its output.
func (b *bed) exec(c *wokenTask, id string, args ...string) (*taskAPI.ExecProcessRequest, *bufio.Reader) {
	b.t.Helper()
	spec, err := json.Marshal(&specs.Process{Args: args, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"}})
	if err != nil {
		b.t.Fatal(err)
	}
	r := &taskAPI.ExecProcessRequest{ID: c.id, ExecID: id, Spec: &anypb.Any{Value: spec}, Stdout: filepath.Join(b.dir, id+"-out")}
	mustFifo(b.t, r.Stdout)
	r.Stderr = r.Stdout
	out := b.lines(r.Stdout)
	if _, err := c.exec(b.ctx(), r); err != nil {
		b.t.Fatal(err)
	}
	return r, out
}

func TestExecRunsInTheTaskAndReportsItsOwnExit(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	ctx := b.ctx()
	early, _ := b.exec(c, "early", "/bin/true")
	if _, err := c.start(ctx, &taskAPI.StartRequest{ID: "c1", ExecID: early.ExecID}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("exec before the start: %v, want a failed precondition", err)
	}
	b.start(c)
	r, out := b.exec(c, "e1", "/bin/sh", "-c", "hostname; exit 3")
	if _, err := c.exec(ctx, r); !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("second exec with the same id: %v, want already exists", err)
	}
	if _, err := c.start(ctx, &taskAPI.StartRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Fatal(err)
	}
	b.want(out, "baked")
	exit, err := c.wait(ctx, &taskAPI.WaitRequest{ID: "c1", ExecID: "e1"})
	if err != nil || exit.ExitStatus != 3 {
		t.Errorf("wait for exec: %v, %v, want status 3", exit, err)
	}
	if state, err := c.state(ctx, &taskAPI.StateRequest{ID: "c1", ExecID: "e1"}); err != nil || state.Status != task.Status_STOPPED {
		t.Errorf("state of exec: %v, %v, want stopped", state, err)
	}
	if _, err := c.delete(ctx, &taskAPI.DeleteRequest{ID: "c1", ExecID: "e1"}); err != nil {
		t.Error(err)
	}
	if _, err := c.state(ctx, &taskAPI.StateRequest{ID: "c1", ExecID: "e1"}); !errdefs.IsNotFound(errgrpc.ToNative(err)) {
		t.Errorf("state of deleted exec: %v, want not found", err)
	}
	b.kill(c, 9)
	b.ends(c, 137)
}

func TestExitOfTheTaskIsPublishedAfterThoseOfItsExecs(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.start(c)
	for i := range 4 {
		id := fmt.Sprint("e", i)
		b.exec(c, id, "/bin/sleep", "1000")
		if _, err := c.start(b.ctx(), &taskAPI.StartRequest{ID: "c1", ExecID: id}); err != nil {
			t.Fatal(err)
		}
	}
	b.kill(c, 9)
	b.ends(c, 137)
	b.mu.Lock()
	defer b.mu.Unlock()
	var exits []string
	for _, e := range b.events {
		if exit, ok := e.(*eventstypes.TaskExit); ok {
			exits = append(exits, exit.ID)
		}
	}
	if len(exits) != 5 || exits[4] != "c1" {
		t.Errorf("exits in the order %v, want four execs and then the task", exits)
	}
}

func TestPidsNameTheExecsAndAreNeverEmpty(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.start(c)
	b.exec(c, "e1", "/bin/sleep", "1000")
	started, err := c.start(b.ctx(), &taskAPI.StartRequest{ID: "c1", ExecID: "e1"})
	if err != nil {
		t.Fatal(err)
	}
	pids, err := c.pids(b.ctx(), &taskAPI.PidsRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[uint32]string)
	for _, p := range pids.Processes {
		var details options.ProcessDetails
		if p.Info != nil {
			if err := typeurl.UnmarshalTo(p.Info, &details); err != nil {
				t.Fatal(err)
			}
		}
		named[p.Pid] = details.ExecID
	}
	if id, ok := named[c.pid()]; !ok || id != "" || named[started.Pid] != "e1" {
		t.Errorf("pids: %v, want %d and %d as e1", named, c.pid(), started.Pid)
	}
	b.kill(c, 9)
	<-c.exited
	if pids, err := c.pids(b.ctx(), &taskAPI.PidsRequest{ID: "c1"}); err != nil || len(pids.Processes) == 0 {
		t.Errorf("pids of a stopped task: %v, %v, want its first process", pids, err)
	}
	b.ends(c, 137)
}

func TestPausedTaskStandsStillAndCanBeKilled(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	ctx := b.ctx()
	if _, err := c.pause(ctx, &taskAPI.PauseRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("pause before the start: %v, want a failed precondition", err)
	}
	b.start(c)
	if _, err := c.pause(ctx, &taskAPI.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if state, err := c.state(ctx, &taskAPI.StateRequest{ID: "c1"}); err != nil || state.Status != task.Status_PAUSED {
		t.Errorf("state: %v, %v, want paused", state, err)
	}
	if _, err := c.resume(ctx, &taskAPI.ResumeRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.resume(ctx, &taskAPI.ResumeRequest{ID: "c1"}); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("resume of a running task: %v, want a failed precondition", err)
	}
	if _, err := c.pause(ctx, &taskAPI.PauseRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	b.kill(c, 9)
	b.ends(c, 137)
	want := []string{"TaskCreate", "TaskStart", "TaskPaused", "TaskResumed", "TaskPaused", "TaskExit", "TaskDelete"}
	if diff := cmp.Diff(want, b.eventNames()); diff != "" {
		t.Errorf("events: %s", diff)
	}
}

func TestUpdateChangesTheLimitsThatStatsShow(t *testing.T) {
	b := newBed(t, answering)
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.start(c)
	limit := int64(128 << 20)
	data, err := json.Marshal(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.update(b.ctx(), &taskAPI.UpdateTaskRequest{ID: "c1", Resources: &anypb.Any{Value: data}}); err != nil {
		t.Fatal(err)
	}
	resp, err := c.stats(b.ctx(), &taskAPI.StatsRequest{ID: "c1"})
	if err != nil {
		t.Fatal(err)
	}
	metrics, err := typeurl.UnmarshalAny(resp.Stats)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(metrics); err != nil || !strings.Contains(string(text), "134217728") {
		t.Errorf("stats: %s, %v, want the new limit in them", text, err)
	}
	b.kill(c, 9)
	b.ends(c, 137)
}

func TestOutOfMemoryIsPublished(t *testing.T) {
	b := newBed(t, `echo ready; read line; tail /dev/zero; echo survived; sleep 1000`)
	r := b.request("c1", b.spec(b.cgroup("c1")))
	c := b.woken(r, seedpool.RungThaw)
	b.start(c)
	b.writer(r.Stdin)("go")
	b.awaitEvent("TaskOOM")
	b.kill(c, 9)
	b.ends(c, 137)
}

func (b *bed) awaitEvent(name string) {
	b.t.Helper()
	deadline := time.After(10 * time.Second)
	for !slices.Contains(b.eventNames(), name) {
		select {
		case <-b.more:
		case <-deadline:
			b.t.Fatalf("no event %s among %v", name, b.eventNames())
		}
	}
}

func TestCheckpointOfARunningTaskLeavesImagesAndTheTask(t *testing.T) {
	b := newBed(t, `echo ready >&2; while :; do sleep 1000 & wait; done`)
	b.pool.noStreams = true
	t.Setenv("PATH", filepath.Dir(tool(t, "criu"))+":"+os.Getenv("PATH"))
	c := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	images := filepath.Join(b.dir, "images")
	ask := &taskAPI.CheckpointTaskRequest{ID: "c1", Path: images}
	if _, err := c.checkpoint(b.ctx(), ask); !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
		t.Errorf("checkpoint before the start: %v, want a failed precondition", err)
	}
	b.start(c)
	if _, err := c.checkpoint(b.ctx(), ask); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(images, "inventory.img")); err != nil {
		t.Error(err)
	}
	if state, err := c.state(b.ctx(), &taskAPI.StateRequest{ID: "c1"}); err != nil || state.Status != task.Status_RUNNING {
		t.Errorf("after the checkpoint: %v, %v, want running", state, err)
	}
	b.kill(c, 9)
	b.ends(c, 137)
}
