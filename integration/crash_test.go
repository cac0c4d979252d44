package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// program finds the processes of the stack that run one of our binaries, by its name and a word of its arguments.
func program(t *testing.T, s *stack.Stack, name, word string) []int {
	t.Helper()
	var pids []int
	for _, pid := range s.Processes() {
		cmdline, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "cmdline"))
		if err != nil {
			continue
		}
		args := strings.Split(string(cmdline), "\x00")
		if filepath.Base(args[0]) == name && strings.Contains(string(cmdline), word) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// shimOf is the shim that serves a container.
func shimOf(t *testing.T, s *stack.Stack, id string) int {
	t.Helper()
	out, err := s.Sprout(t.Context(), "--namespace", s.Namespace, "explain", "--json", id)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut(out, `"shim_pid":`)
	if !found {
		t.Fatalf("no shim_pid in %s", out)
	}
	n, err := strconv.Atoi(strings.TrimSpace(strings.FieldsFunc(rest, func(r rune) bool { return r == ',' || r == '\n' || r == '}' })[0]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// victims are the processes that are killed with -9 while starts go on, and how they come back.
var victims = []struct {
	name string
	kill func(t *testing.T, s *stack.Stack)
}{
	{"sproutd", func(t *testing.T, s *stack.Stack) {
		kill(t, s.SproutdPID())
		s.WaitSproutd()
		if err := s.StartSproutd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}},
	{"keeper", func(t *testing.T, s *stack.Stack) {
		for _, pid := range program(t, s, "sproutd", "keeper") {
			kill(t, pid)
		}
	}},
	{"shim", func(t *testing.T, s *stack.Stack) {
		for _, pid := range program(t, s, "sprout-shim", "") {
			kill(t, pid)
		}
	}},
	{"containerd", func(t *testing.T, s *stack.Stack) {
		kill(t, s.ContainerdPID())
		s.WaitContainerd()
		if err := s.StartContainerd(t.Context()); err != nil {
			t.Fatal(err)
		}
	}},
}

func kill(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

func terminate(t *testing.T, pid int) {
	t.Helper()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatalf("terminate %d: %v", pid, err)
	}
}

func TestKillingAnyProcessLeaksNothingAndStartsGoOn(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	seed := bakedPython(t, s)
	// One start before the census: containerd, runc and sprout each keep a directory for a namespace that they have seen.
	cycle(t, s, seed, "thaw", 2, nil, 0)
	setPool(t, s, seed, 2)
	before := rested(t, s)
	for _, victim := range victims {
		t.Run(victim.name, func(t *testing.T) {
			stop, done := make(chan struct{}), make(chan int)
			go func() { done <- startLoop(t, s, victim.name, stop) }()
			time.Sleep(700 * time.Millisecond)
			victim.kill(t, s)
			time.Sleep(700 * time.Millisecond)
			close(stop)
			t.Logf("%d starts while %s was killed", <-done, victim.name)
			// What must hold afterwards: a start works, the pool fills up again, the fast rung is back.
			sweep(t, s)
			setPool(t, s, seed, 2)
			id := "after-" + victim.name
			run(t, s, id, "python-demo")
			get(t, s, id, "/")
			wantRung(t, s, id, "thaw")
			remove(t, s, id)
			setPool(t, s, seed, 2)
			if left := settled(t, s, before); len(left) > 0 {
				t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}

// startLoop starts and removes containers until it is told to stop. Single starts may fail while a daemon is away; what they leave is the test's question.
func startLoop(t *testing.T, s *stack.Stack, name string, stop <-chan struct{}) int {
	n := 0
	for {
		select {
		case <-stop:
			return n
		default:
		}
		id := fmt.Sprintf("loop-%s-%d", name, n)
		n++
		if _, err := s.Ctr(contextOf(t), "run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter, stack.Ref("python-demo"), id); err != nil {
			continue
		}
		// A container is not deleted over its task: what a daemon that is away would not do is left to the sweep.
		if _, err := s.Ctr(contextOf(t), "task", "delete", "--force", id); err == nil {
			_, _ = s.Ctr(contextOf(t), "container", "delete", id)
		}
	}
}

// sweep removes what an operator would: containers whose start was cut off, and the snapshots that ctr left without a container.
func sweep(t *testing.T, s *stack.Stack) {
	t.Helper()
	eventually(t, func() error { return s.RemoveAll(contextOf(t)) })
	for _, snapshotter := range []string{stack.Snapshotter, stack.OverlaySnapshotter} {
		var out string
		// After a restart of sproutd containerd takes a moment to connect to it again.
		eventually(t, func() (err error) {
			out, err = s.Ctr(contextOf(t), "snapshots", "--snapshotter", snapshotter, "ls")
			return err
		})
		for _, line := range strings.Split(out, "\n") {
			if fields := strings.Fields(line); len(fields) == 3 && fields[2] == "Active" {
				_, _ = s.Ctr(contextOf(t), "snapshots", "--snapshotter", snapshotter, "rm", fields[0])
			}
		}
	}
}

// eventually repeats what fails while a daemon comes back, for half a minute.
func eventually(t *testing.T, do func() error) {
	t.Helper()
	deadline := time.Now().Add(30 * time.Second)
	for {
		err := do()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func TestKillingAShimTakesOnlyItsOwnContainer(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	setPool(t, s, bakedPython(t, s), 2)
	run(t, s, "stays", "python-demo")
	// ctr would make named pipes, which nobody can find again when containerd has dropped the task.
	run(t, s, "goes", "python-demo", "--null-io")
	goes := pid(t, s, "goes")
	kill(t, shimOf(t, s, "goes"))
	deadline := time.Now().Add(20 * time.Second)
	for syscall.Kill(goes, 0) == nil {
		if time.Now().After(deadline) {
			t.Fatal("the container of the killed shim still runs")
		}
		time.Sleep(50 * time.Millisecond)
	}
	get(t, s, "stays", "/")
}

func TestKillingTheKeeperLeavesRunningContainersAlone(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	setPool(t, s, bakedPython(t, s), 1)
	run(t, s, "runs-on", "python-demo")
	wantRung(t, s, "runs-on", "thaw")
	for _, pid := range program(t, s, "sproutd", "keeper") {
		kill(t, pid)
	}
	get(t, s, "runs-on", "/")
	if status := exitOf(t, s, "runs-on", "/exit?code=9"); status != 9 {
		t.Errorf("exit status %d after the keeper died, want 9", status)
	}
}

func TestKillingShimAndKeeperTogetherEndsTheContainer(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, sharing, "python-demo")
	setPool(t, s, bakedPython(t, s), 1)
	run(t, s, "orphan", "python-demo", "--null-io")
	wantRung(t, s, "orphan", "thaw")
	get(t, s, "orphan", "/")
	orphan, victims := pid(t, s, "orphan"), append(program(t, s, "sproutd", "keeper"), shimOf(t, s, "orphan"))
	for _, pid := range victims {
		kill(t, pid)
	}
	killed := time.Now()
	for deadline := killed.Add(5 * time.Second); lives(orphan); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the container goes on although nobody serves its memory")
		}
	}
	t.Logf("it has ended after %s", time.Since(killed))
}

// lives says whether a process is there and is no zombie: that of a dead keeper waits for a stranger to reap it.
func lives(pid int) bool {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(data), ") ")
	return !strings.HasPrefix(rest, "Z") && !strings.HasPrefix(rest, "X")
}
