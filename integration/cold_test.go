package integration

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/integration/stack"
)

// create makes a container and its task on the sprout runtime through the client library; both go with the test.
func create(t *testing.T, s *stack.Stack, id, image string, streams cio.Creator, opts ...oci.SpecOpts) containerd.Task {
	t.Helper()
	ctx := s.Context(t.Context())
	img, err := s.Client.GetImage(ctx, stack.Ref(image))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Client.NewContainer(ctx, id, containerd.WithImage(img), containerd.WithSnapshotter(stack.Snapshotter), containerd.WithNewSnapshot(id, img),
		containerd.WithRuntime(stack.Runtime, nil), containerd.WithNewSpec(append([]oci.SpecOpts{oci.WithDefaultUnixDevices, oci.WithImageConfig(img)}, opts...)...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s, id) })
	task, err := c.NewTask(ctx, streams)
	if err != nil {
		t.Fatal(err)
	}
	return task
}

// waitExit starts nothing: it waits for a task's end and returns its status.
func waitExit(t *testing.T, exit <-chan containerd.ExitStatus) uint32 {
	t.Helper()
	select {
	case status := <-exit:
		if err := status.Error(); err != nil {
			t.Fatal(err)
		}
		return status.ExitCode()
	case <-time.After(20 * time.Second):
		t.Fatal("the task did not end")
		return 0
	}
}

func TestColdContainerRunsToItsExitStatusWithAllItsOutput(t *testing.T) {
	file := filepath.Join(t.TempDir(), "log")
	task := create(t, house, "cold-exit", "tiny-demo", cio.LogFile(file), oci.WithProcessArgs("sh", "-c", "head -c 8388608 /dev/zero; echo end; exit 7"))
	ctx := house.Context(t.Context())
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if status := waitExit(t, exit); status != 7 {
		t.Errorf("exit status %d, want 7", status)
	}
	if _, err := task.Delete(ctx); err != nil {
		t.Error(err)
	}
	data, err := os.ReadFile(file)
	if err != nil || len(data) != 8<<20+4 || !strings.HasSuffix(string(data), "end\n") {
		t.Errorf("log holds %d bytes, %v", len(data), err)
	}
}

func TestColdContainerReadsItsStandardInput(t *testing.T) {
	var out strings.Builder
	task := create(t, house, "cold-stdin", "tiny-demo", cio.NewCreator(cio.WithStreams(strings.NewReader("hello\n"), &out, io.Discard)), oci.WithProcessArgs("head", "-n", "1"))
	ctx := house.Context(t.Context())
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if status := waitExit(t, exit); status != 0 {
		t.Errorf("exit status %d", status)
	}
	if _, err := task.Delete(ctx); err != nil {
		t.Error(err)
	}
	if out.String() != "hello\n" {
		t.Errorf("it read %q", out.String())
	}
}

func TestTerminalStartsColdAndSaysWhy(t *testing.T) {
	seed := bakedPython(t, house)
	setPool(t, house, seed, 1)
	var out strings.Builder
	task := create(t, house, "cold-tty", "python-demo", cio.NewCreator(cio.WithStreams(strings.NewReader(""), &out, nil), cio.WithTerminal), oci.WithTTY)
	if err := task.Start(house.Context(t.Context())); err != nil {
		t.Fatal(err)
	}
	if text := wantRung(t, house, "cold-tty", "cold"); !strings.Contains(text, "tty") {
		t.Errorf("the reason is missing:\n%s", text)
	}
}

func TestColdContainerObeysPauseUpdateCheckpointAndKill(t *testing.T) {
	ctx := house.Context(t.Context())
	task := create(t, house, "cold-verbs", "tiny-demo", cio.NullIO, oci.WithProcessArgs("sleep", "1000"))
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := task.Pause(ctx); err != nil {
		t.Fatal(err)
	}
	if status, err := task.Status(ctx); err != nil || status.Status != containerd.Paused {
		t.Errorf("status %v, %v", status, err)
	}
	if err := task.Resume(ctx); err != nil {
		t.Fatal(err)
	}
	limit := int64(64 << 20)
	if err := task.Update(ctx, containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
		t.Error(err)
	}
	if pids, err := task.Pids(ctx); err != nil || len(pids) == 0 {
		t.Errorf("pids: %v, %v", pids, err)
	}
	if _, err := task.Metrics(ctx); err != nil {
		t.Error(err)
	}
	if _, err := task.Checkpoint(ctx); err != nil {
		t.Error(err)
	}
	if err := task.Kill(ctx, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	if status := waitExit(t, exit); status != 137 {
		t.Errorf("exit status %d, want 137", status)
	}
}

func TestEventsComeInOrder(t *testing.T) {
	for _, c := range []struct{ rung, image string }{{"cold", "tiny-demo"}, {"thaw", "python-demo"}} {
		t.Run(c.rung, func(t *testing.T) {
			if c.rung == "thaw" {
				setPool(t, house, bakedPython(t, house), 1)
			}
			id := "events-" + c.rung
			ctx, cancel := context.WithTimeout(house.Context(t.Context()), time.Minute)
			defer cancel()
			events, errs := house.Client.Subscribe(ctx, `topic~="^/tasks/"`)
			task := create(t, house, id, c.image, cio.NullIO)
			if err := task.Start(ctx); err != nil {
				t.Fatal(err)
			}
			if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil {
				t.Fatal(err)
			}
			var got []string
			for len(got) < 4 {
				select {
				case e := <-events:
					if v, err := typeurl.UnmarshalAny(e.Event); err == nil && containerOf(v) == id {
						got = append(got, strings.TrimPrefix(e.Topic, "/tasks/"))
					}
				case err := <-errs:
					t.Fatalf("%v, so far %v", err, got)
				case <-ctx.Done():
					t.Fatalf("so far %v", got)
				}
			}
			if want := "create start exit delete"; strings.Join(got, " ") != want {
				t.Errorf("events %v, want %s", got, want)
			}
		})
	}
}

// containerOf is the container that a task event is about.
func containerOf(event any) string {
	switch e := event.(type) {
	case *eventsapi.TaskCreate:
		return e.ContainerID
	case *eventsapi.TaskStart:
		return e.ContainerID
	case *eventsapi.TaskExit:
		return e.ContainerID
	case *eventsapi.TaskDelete:
		return e.ContainerID
	}
	return ""
}

func TestTasksSurviveARestartOfContainerd(t *testing.T) {
	s := ownStack(t, "tiny-demo", "python-demo")
	setPool(t, s, bakedPython(t, s), 1)
	run(t, s, "cold", "tiny-demo")
	run(t, s, "woken", "python-demo")
	wantRung(t, s, "woken", "thaw")
	if err := syscall.Kill(s.ContainerdPID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	s.WaitContainerd()
	if err := s.StartContainerd(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"cold", "woken"} {
		out, err := s.Ctr(t.Context(), "task", "exec", "--exec-id", "after", id, "echo", "alive")
		if err != nil || !strings.Contains(out, "alive") {
			t.Errorf("%s after the restart: %v %q", id, err, out)
		}
	}
	if out, err := s.Ctr(t.Context(), "task", "ls"); err != nil || strings.Count(out, "RUNNING") != 2 {
		t.Errorf("tasks: %v %s", err, fmt.Sprint(out))
	}
}
