package integration

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	// What the stats of either version of cgroups are written in.
	_ "github.com/containerd/cgroups/v3/cgroup1/stats"
	_ "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types/runc/options"
	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

func decimal(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// steps are the cases that leave their container running.
var steps = []struct {
	name string
	test func(*testing.T, *lived)
}{
	{"both outputs", func(t *testing.T, l *lived) {
		l.tell(t, "complain", "trouble")
		l.err.take(t, "trouble\n")
	}},
	{"exec", testExec},
	{"exec with a terminal", testExecTerminal},
	{"pids and kill of an exec", testExecKill},
	{"signals", func(t *testing.T, l *lived) {
		for _, sig := range []struct {
			signal syscall.Signal
			says   string
		}{
			{syscall.SIGUSR1, "USR1\n"},
			{syscall.SIGHUP, "HUP\n"},
			{syscall.SIGWINCH, ""},
			{syscall.SIGTERM, ""},
			{syscall.SIGQUIT, ""}, // the first process of a pid namespace gets only what it has a handler for
			{syscall.SIGSTOP, ""},
			{syscall.SIGCONT, ""},
		} {
			if err := l.task.Kill(l.ctx, sig.signal); err != nil {
				t.Fatal(err)
			}
			l.out.take(t, sig.says)
		}
		l.answers(t, "after the signals")
	}},
	{"pause and resume", testPause},
	{"update and stats", testUpdate},
	{"checkpoint", testCheckpoint},
	{"detach and attach", func(t *testing.T, l *lived) {
		l.detach(t)
		container, err := l.s.Client.LoadContainer(l.ctx, l.task.ID())
		if err != nil {
			t.Fatal(err)
		}
		if l.task, err = container.Task(l.ctx, l.attach); err != nil {
			t.Fatal(err)
		}
		l.answers(t, "with another client")
	}},
	{"delete while it runs", func(t *testing.T, l *lived) {
		_, err := l.s.Client.TaskService().Delete(l.ctx, &tasks.DeleteTaskRequest{ContainerID: l.task.ID()})
		if err == nil {
			t.Error("it is deleted")
		}
		l.answers(t, "not deleted")
	}},
}

// execSpec is a process of the container with another command.
func (l *lived) execSpec(t *testing.T, args ...string) *specs.Process {
	t.Helper()
	spec, err := l.task.Spec(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	spec.Process.Args, spec.Process.Terminal = args, false
	return spec.Process
}

// exec adds a process and starts it.
func (l *lived) exec(t *testing.T, id string, spec *specs.Process, streams cio.Creator) (containerd.Process, <-chan containerd.ExitStatus) {
	t.Helper()
	p, err := l.task.Exec(l.ctx, id, spec, streams)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait(l.ctx)
	if err == nil {
		err = p.Start(l.ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
	l.expect("exec-added "+id, "exec-started "+id)
	return p, exit
}

// execEnds waits for the end of an exec and deletes it; nothing of its process may be left.
func (l *lived) execEnds(t *testing.T, p containerd.Process, exit <-chan containerd.ExitStatus, want uint32) {
	t.Helper()
	if status := waitExit(t, exit); status != want {
		t.Errorf("exit status %d, want %d", status, want)
	}
	pid := p.Pid()
	if status, err := p.Delete(l.ctx); err != nil || status.ExitCode() != want {
		t.Errorf("delete: %v, %v", status, err)
	}
	if _, err := os.Stat(filepath.Join("/proc", decimal(pid))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("process %d is left: %v", pid, err)
	}
	l.expect("exit " + p.ID() + " " + decimal(want))
}

func testExec(t *testing.T, l *lived) {
	spec := l.execSpec(t, "sh", "-c", `read line; echo "$line $GREETING $(pwd) $(id -u):$(id -g)"; echo oops >&2; exit 3`)
	spec.Env, spec.Cwd = append(spec.Env, "GREETING=hi"), "/tmp"
	spec.User = specs.User{UID: 1000, GID: 1001}
	var out, errOut bytes.Buffer
	p, exit := l.exec(t, "plain", spec, cio.NewCreator(cio.WithStreams(strings.NewReader("line\n"), &out, &errOut)))
	l.execEnds(t, p, exit, 3)
	if out.String() != "line hi /tmp 1000:1001\n" || errOut.String() != "oops\n" {
		t.Errorf("it printed %q and %q", out.String(), errOut.String())
	}
}

func testExecTerminal(t *testing.T, l *lived) {
	spec := l.execSpec(t, "sh", "-c", `test -t 0 && read line && stty size`)
	spec.Terminal = true
	typed, keyboard := io.Pipe()
	var out bytes.Buffer
	p, exit := l.exec(t, "tty", spec, cio.NewCreator(cio.WithStreams(typed, &out, nil), cio.WithTerminal))
	if err := p.Resize(l.ctx, 100, 30); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(keyboard, "go\n"); err != nil {
		t.Fatal(err)
	}
	l.execEnds(t, p, exit, 0)
	_ = keyboard.Close()
	if out.String() != "go\r\n30 100\r\n" {
		t.Errorf("the terminal shows %q", out.String())
	}
}

func testExecKill(t *testing.T, l *lived) {
	p, exit := l.exec(t, "sleep", l.execSpec(t, "sleep", "1000"), cio.NullIO)
	pids, err := l.task.Pids(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	named := make(map[uint32]string)
	for _, info := range pids {
		var details options.ProcessDetails
		if info.Info != nil {
			if err := typeurl.UnmarshalTo(info.Info, &details); err != nil {
				t.Fatal(err)
			}
		}
		named[info.Pid] = details.ExecID
	}
	if id, ok := named[l.task.Pid()]; !ok || id != "" || named[p.Pid()] != "sleep" || len(named) != 2 {
		t.Errorf("pids %v, want %d and %d of the exec", named, l.task.Pid(), p.Pid())
	}
	if err := p.Kill(l.ctx, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	l.execEnds(t, p, exit, 128+15)
}

func testPause(t *testing.T, l *lived) {
	if err := l.task.Pause(l.ctx); err != nil {
		t.Fatal(err)
	}
	if status, err := l.task.Status(l.ctx); err != nil || status.Status != containerd.Paused {
		t.Errorf("%v, %v", status, err)
	}
	l.tell(t, "say", "thawed")
	time.Sleep(50 * time.Millisecond) // in which it would have said it
	if l.out.has("thawed") {
		t.Error("it runs while it is paused")
	}
	if err := l.task.Resume(l.ctx); err != nil {
		t.Fatal(err)
	}
	l.out.take(t, "thawed\n")
	l.expect("paused", "resumed")
}

func testUpdate(t *testing.T, l *lived) {
	memory, pids := int64(128<<20), int64(77)
	update := containerd.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}, Pids: &specs.LinuxPids{Limit: &pids}})
	if err := l.task.Update(l.ctx, update); err != nil {
		t.Fatal(err)
	}
	if got := limitOf(t, l.task.Pid(), "memory", "memory.limit_in_bytes", "memory.max"); got != "134217728" {
		t.Errorf("memory limit %s", got)
	}
	if got := limitOf(t, l.task.Pid(), "pids", "pids.max", "pids.max"); got != "77" {
		t.Errorf("limit of processes %s", got)
	}
	metric, err := l.task.Metrics(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	data, err := typeurl.UnmarshalAny(metric.Data)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := json.Marshal(data); err != nil || !bytes.Contains(text, []byte("134217728")) || !bytes.Contains(text, []byte(`"limit":77`)) {
		t.Errorf("stats %s, %v", text, err)
	}
}

// limitOf reads a limit in the cgroup in which a process is, in whichever version of cgroups has the controller.
func limitOf(t *testing.T, pid uint32, controller, v1, v2 string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("/proc", decimal(pid), "cgroup"))
	if err != nil {
		t.Fatal(err)
	}
	file := ""
	for line := range strings.Lines(string(data)) {
		fields := strings.SplitN(strings.TrimSpace(line), ":", 3)
		switch {
		case fields[1] == controller:
			file = filepath.Join("/sys/fs/cgroup", controller, fields[2], v1)
		case fields[1] == "" && file == "":
			file = filepath.Join("/sys/fs/cgroup", fields[2], v2)
		}
	}
	data, err = os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(data))
}

func testCheckpoint(t *testing.T, l *lived) {
	image, err := l.task.Checkpoint(l.ctx)
	l.expect("paused", "resumed") // by the client library; no shim tells of the checkpoint
	if l.clones {
		if err == nil || !strings.Contains(err.Error(), "enabled = false") {
			t.Errorf("a clone is checkpointed: %v", err)
		}
	} else {
		if err != nil {
			t.Fatal(err)
		}
		if size, err := image.Size(l.ctx); err != nil || size < 1<<18 {
			t.Errorf("an image of %d bytes, %v", size, err)
		}
	}
	l.answers(t, "after the checkpoint")
}
