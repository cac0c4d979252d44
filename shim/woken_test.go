package shim

import (
	"slices"
	"strings"
	"testing"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool"
)

// answering is an app that answers each line of its input.
const answering = `echo ready; trap 'echo bye; exit 7' TERM; while read line; do echo "got $line"; done; echo end; while :; do sleep 1000 & wait; done`

func TestThawedTaskLivesAndDiesLikeAnOrdinaryOne(t *testing.T) {
	b := newBed(t, answering)
	r := b.request("c1", b.spec(b.cgroup("c1")))
	stdout := b.lines(r.Stdout)
	task := b.woken(r, seedpool.RungThaw)
	ctx := b.ctx()
	if _, err := task.start(ctx, &taskAPI.StartRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	for _, p := range task.record.start.Phases {
		t.Logf("%-10s %8.3f ms", p.Name, float64(p.Nanoseconds)/1e6)
	}
	stdin := b.writer(r.Stdin)
	stdin("hello")
	b.want(stdout, "got hello")
	if _, err := task.kill(ctx, &taskAPI.KillRequest{ID: "c1", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	exit, err := task.wait(ctx, &taskAPI.WaitRequest{ID: "c1"})
	if err != nil || exit.ExitStatus != 7 {
		t.Fatalf("wait: %v, %v, want status 7", exit, err)
	}
	b.want(stdout, "bye")
	if _, err := task.delete(ctx, &taskAPI.DeleteRequest{ID: "c1"}); err != nil {
		t.Fatal(err)
	}
	want := []string{"TaskCreate", "TaskStart", "TaskExit", "TaskDelete"}
	if diff := cmp.Diff(want, b.eventNames()); diff != "" {
		t.Errorf("events: %s", diff)
	}
	if names, err := b.leftovers(); err != nil || len(names) > 0 {
		t.Errorf("left behind: %v %v", names, err)
	}
}

func mustContain(t *testing.T, list []string, want string) {
	t.Helper()
	if !slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, want) }) {
		t.Errorf("%v has no %q", list, want)
	}
}
