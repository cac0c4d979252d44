package integration

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sproutrun/sprout/integration/stack"
)

// create makes a container and its task on the sprout runtime through the client library; both go with the test.
func create(t *testing.T, s *stack.Stack, id, image string, streams cio.Creator, opts ...oci.SpecOpts) containerd.Task {
	t.Helper()
	return createBy(t, s, id, image, stack.Runtime, streams, opts...)
}

// createBy is create on some runtime.
func createBy(t *testing.T, s *stack.Stack, id, image, runtime string, streams cio.Creator, opts ...oci.SpecOpts) containerd.Task {
	t.Helper()
	ctx := s.Context(t.Context())
	img, err := s.Client.GetImage(ctx, stack.Ref(image))
	if err != nil {
		t.Fatal(err)
	}
	c, err := s.Client.NewContainer(ctx, id, containerd.WithImage(img), containerd.WithSnapshotter(stack.Snapshotter), containerd.WithNewSnapshot(id, img),
		containerd.WithRuntime(runtime, nil), containerd.WithNewSpec(append([]oci.SpecOpts{oci.WithDefaultUnixDevices, oci.WithImageConfig(img)}, opts...)...))
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

func TestTasksSurviveARestartOfContainerd(t *testing.T) {
	type survivor struct {
		column
		id, log string
	}
	var all []survivor
	for _, way := range columns {
		c := way.witnesses(t, 1)
		log := filepath.Join(t.TempDir(), "log")
		task := c.create(t, "survivor", cio.LogFile(log))
		c.start(t, task)
		all = append(all, survivor{c, task.ID(), log})
	}
	for _, s := range []*stack.Stack{house, forking(t)} {
		if err := syscall.Kill(s.ContainerdPID(), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		s.WaitContainerd()
		if err := s.StartContainerd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, one := range all {
		t.Run(one.name, func(t *testing.T) {
			out, err := one.s.Ctr(t.Context(), "task", "exec", "--exec-id", "after", one.id, "echo", "alive")
			if err != nil || !strings.Contains(out, "alive") {
				t.Errorf("exec: %v %q", err, out)
			}
			ctx := one.s.Context(t.Context())
			container, err := one.s.Client.LoadContainer(ctx, one.id)
			if err != nil {
				t.Fatal(err)
			}
			task, err := container.Task(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			exit, err := task.Wait(ctx)
			if err != nil {
				t.Fatal(err)
			}
			logsAll(t, one.column, task, exit, one.log)
		})
	}
}
