package integration

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// TestTheTaskAPIIsTheSameOnEveryRung has one table of cases, which every way to start a container must pass.
func TestTheTaskAPIIsTheSameOnEveryRung(t *testing.T) {
	for _, way := range columns {
		t.Run(way.name, func(t *testing.T) {
			c := way.witnesses(t, len(endings)+1)
			t.Run("life", func(t *testing.T) { life(t, c) })
			for _, ending := range endings {
				t.Run(ending.name, func(t *testing.T) { ending.test(t, c) })
			}
		})
	}
}

// lived is a container that goes through one case after the other.
type lived struct {
	column
	console

	task containerd.Task
	exit <-chan containerd.ExitStatus
	ctx  context.Context // of the test
	told []string
}

// expect adds to the events that must come.
func (l *lived) expect(events ...string) { l.told = append(l.told, events...) }

// life has one container for all cases that leave it running, and then ends it with more output than any buffer holds.
func life(t *testing.T, c column) {
	l := &lived{column: c, ctx: c.s.Context(t.Context())}
	heard := hear(l.ctx, c, "life-"+c.name)
	l.task = c.create(t, "life", l.creator(t.TempDir()))
	if status, err := l.task.Status(l.ctx); err != nil || status.Status != containerd.Created || l.task.Pid() == 0 {
		t.Errorf("created: %v, %v, pid %d", status, err, l.task.Pid())
	}
	l.exit = c.start(t, l.task)
	l.expect("create", "start")
	l.answers(t, "hello")
	for _, step := range steps {
		t.Run(step.name, func(t *testing.T) { step.test(t, l) })
	}
	t.Run("burst and exit", func(t *testing.T) {
		l.tell(t, "burst")
		l.tell(t, "exit", "7")
		if status := waitExit(t, l.exit); status != 7 {
			t.Errorf("exit status %d, want 7", status)
		}
		l.out.take(t, string(burst()))
	})
	t.Run("delete", func(t *testing.T) {
		status, err := l.task.Delete(l.ctx)
		if err != nil || status.ExitCode() != 7 {
			t.Errorf("%v, %v", status, err)
		}
		eventually(t, func() error { // no zombie is left
			if _, err := os.Stat(filepath.Join("/proc", decimal(l.task.Pid()))); err == nil {
				return os.ErrExist
			}
			return nil
		})
		if err := l.task.Kill(l.ctx, syscall.SIGKILL); !errdefs.IsNotFound(err) {
			t.Errorf("kill of a task that was deleted: %v", err)
		}
	})
	t.Run("events", func(t *testing.T) {
		l.expect("exit 7", "delete 7")
		if diff := cmp.Diff(l.told, heard(t)); diff != "" {
			t.Error(diff)
		}
	})
}

// hear collects the events of a container until that of its deletion.
func hear(ctx context.Context, c column, id string) func(t *testing.T) []string {
	envelopes, errs := c.s.Client.Subscribe(ctx, `topic~="^/tasks/"`)
	var list []string
	over := make(chan error, 1)
	go func() {
		for {
			select {
			case e := <-envelopes:
				said := describe(e, id)
				if said != "" {
					list = append(list, said)
				}
				if strings.HasPrefix(said, "delete") {
					over <- nil
					return
				}
			case err := <-errs:
				over <- err
				return
			}
		}
	}()
	return func(t *testing.T) []string {
		t.Helper()
		select {
		case err := <-over:
			if err != nil {
				t.Error(err)
			}
			return list
		case <-time.After(20 * time.Second):
			t.Fatal("the task's deletion was not told")
			return nil
		}
	}
}

// describe is an event about a container, in a few words: topic, process and status. Empty: it is about another.
func describe(envelope *events.Envelope, id string) string {
	event, err := typeurl.UnmarshalAny(envelope.Event)
	if err != nil {
		return err.Error()
	}
	about, isAbout := event.(interface{ GetContainerID() string })
	if !isAbout || about.GetContainerID() != id {
		return ""
	}
	words := []string{strings.TrimPrefix(envelope.Topic, "/tasks/")}
	if of, ok := event.(interface{ GetExecID() string }); ok {
		words = append(words, of.GetExecID())
	}
	if exit, ok := event.(*eventsapi.TaskExit); ok && exit.ID != id {
		words = append(words, exit.ID)
	}
	if of, ok := event.(interface{ GetExitStatus() uint32 }); ok {
		words = append(words, decimal(of.GetExitStatus()))
	}
	return strings.Join(slices.DeleteFunc(words, func(w string) bool { return w == "" }), " ")
}

// endings are the cases that end their container.
var endings = []struct {
	name string
	test func(*testing.T, column)
}{
	{"no stop by SIGTERM", func(t *testing.T, c column) {
		var con console
		task := c.create(t, "stubborn", con.creator(t.TempDir()))
		ctx := c.s.Context(t.Context())
		exit := c.start(t, task)
		if err := task.Kill(ctx, syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		con.answers(t, "still here")
		if err := task.Kill(ctx, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if status := waitExit(t, exit); status != 128+9 {
			t.Errorf("exit status %d", status)
		}
	}},
	{"killed by a signal of its own", func(t *testing.T, c column) {
		var con console
		exit := c.start(t, c.create(t, "crash", con.creator(t.TempDir())))
		con.tell(t, "crash")
		if status := waitExit(t, exit); status != 128+11 {
			t.Errorf("exit status %d", status)
		}
	}},
	{"out of memory", func(t *testing.T, c column) {
		var con console
		task := c.create(t, "oom", con.creator(t.TempDir()))
		ctx := c.s.Context(t.Context())
		heard := hear(ctx, c, task.ID())
		exit := c.start(t, task)
		limit := int64(64 << 20)
		if err := task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
			t.Fatal(err)
		}
		con.tell(t, "eat")
		if status := waitExit(t, exit); status != 128+9 {
			t.Errorf("exit status %d", status)
		}
		if _, err := task.Delete(ctx); err != nil {
			t.Fatal(err)
		}
		if got := heard(t); !slices.Contains(got, "oom") {
			t.Errorf("events %v", got)
		}
	}},
	// A log file is written by the containers that outlive containerd (TestTasksSurviveARestartOfContainerd).
	{"log by a program", func(t *testing.T, c column) {
		file := filepath.Join(t.TempDir(), "log")
		task := c.create(t, "logger", cio.BinaryIO("/bin/sh", map[string]string{"-c": "exec 5>&-; cat <&3 >" + file}))
		logsAll(t, c, task, c.start(t, task), file)
	}},
}

// logsAll has a task print a burst and end at once: every byte must be in its log.
func logsAll(t *testing.T, c column, task containerd.Task, exit <-chan containerd.ExitStatus, file string) {
	t.Helper()
	if c.rung == "cold" {
		awaitFile(t, file, "ready\n")
	}
	ctx := c.s.Context(t.Context())
	if err := task.Kill(ctx, syscall.SIGUSR2); err != nil {
		t.Fatal(err)
	}
	if status := waitExit(t, exit); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, err := task.Delete(ctx); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimPrefix(string(data), "ready\n"); got != string(burst()) {
		t.Errorf("the log has %d bytes that are not the %d which it printed", len(got), len(burst()))
	}
}

// awaitFile waits until a file has a text.
func awaitFile(t *testing.T, file, text string) {
	t.Helper()
	eventually(t, func() error {
		data, err := os.ReadFile(file)
		if err == nil && string(data) != text {
			err = os.ErrNotExist
		}
		return err
	})
}
