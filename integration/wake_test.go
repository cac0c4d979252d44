package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// wokenRungs are the rungs above cold; spares is what the pool holds while the rung is tested.
var wokenRungs = []struct {
	name   string
	spares int
}{{"thaw", 2}, {"restore", 0}}

// wake is one way in which a container comes to be woken: how it is started, from spares of what kind.
type wake struct {
	name, rung string
	spares     int
	// clones: where instances are cloned.
	clones bool
}

var wakes = []wake{{"thaw", "thaw", 2, false}, {"restore", "restore", 0, false}, {"thaw-clone", "thaw", 2, true}, {"fork", "fork", 0, true}}

// ready makes a stack's pool of the python seed one from which containers are woken in this way.
func (w wake) ready(t *testing.T) *stack.Stack {
	t.Helper()
	s := house
	if w.clones {
		s = forking(t)
	}
	seed := bakedPython(t, s)
	if w.rung == "fork" {
		setPool(t, s, seed, 1) // so that the template stands
	}
	setPool(t, s, seed, w.spares)
	return s
}

// run starts a container with ctr on the sprout runtime.
func run(t *testing.T, s *stack.Stack, id, image string, args ...string) {
	t.Helper()
	list := append([]string{"run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter}, args...)
	if _, err := s.Ctr(t.Context(), append(list, stack.Ref(image), id)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s, id) })
}

// remove kills and deletes a container and its task.
func remove(t *testing.T, s *stack.Stack, id string) {
	t.Helper()
	ctx := s.Context(contextOf(t))
	c, err := s.Client.LoadContainer(ctx, id)
	if err != nil {
		return // The test removed it.
	}
	if err := s.Remove(ctx, c); err != nil {
		t.Error(err)
	}
}

// pid is the host's pid of a container's init.
func pid(t *testing.T, s *stack.Stack, id string) int {
	t.Helper()
	ctx := s.Context(t.Context())
	c, err := s.Client.LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	return int(task.Pid())
}

// get asks the app in a container.
func get(t *testing.T, s *stack.Stack, id, path string) string {
	t.Helper()
	p := pid(t, s, id)
	if err := stack.AwaitReply(t.Context(), p, "8080", 10*time.Second); err != nil {
		t.Fatal(err)
	}
	body, err := stack.Get(p, "8080", path)
	if err != nil {
		t.Fatalf("GET %s: %v", path, err)
	}
	return strings.TrimSpace(body)
}

func TestWokenContainerAnswersAndSaysHowItWasStarted(t *testing.T) {
	for _, rung := range wakes {
		t.Run(rung.name, func(t *testing.T) {
			s := rung.ready(t)
			id := "answers-" + rung.name
			run(t, s, id, "python-demo")
			get(t, s, id, "/")
			out := wantRung(t, s, id, rung.rung)
			if rung.rung == "thaw" && !strings.Contains(out, "0 fallbacks") {
				t.Errorf("thaw passed something over:\n%s", out)
			}
			if rung.name == "restore" && !strings.Contains(out, "no-spare") {
				t.Errorf("restore does not say that there was no spare:\n%s", out)
			}
			if rung.clones { // the others sleep in tests of their own
				doze(t, s, id)
				rouse(t, s, id)
				get(t, s, id, "/")
			}
		})
	}
}

// exitOf asks the app to end and returns the exit status that containerd reports.
func exitOf(t *testing.T, s *stack.Stack, id, path string) uint32 {
	t.Helper()
	ctx := s.Context(t.Context())
	c, err := s.Client.LoadContainer(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	task, err := c.Task(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	// The app may end before it has answered: the status is what counts.
	_, _ = stack.Get(int(task.Pid()), "8080", path)
	select {
	case status := <-exit:
		return status.ExitCode()
	case <-time.After(20 * time.Second):
		t.Fatal("the container did not end")
		return 0
	}
}

func TestTwoWokenContainersShareNothingThatTheyWrite(t *testing.T) {
	for _, rung := range wakes {
		t.Run(rung.name, func(t *testing.T) {
			s := rung.ready(t)
			first, second := "first-"+rung.name, "second-"+rung.name
			run(t, s, first, "python-demo")
			run(t, s, second, "python-demo")
			wantRung(t, s, first, rung.rung)
			wantRung(t, s, second, rung.rung)
			get(t, s, first, "/write?path=/tmp/mine&data=secret")
			if got := get(t, s, first, "/file?path=/tmp/mine"); got != "secret" {
				t.Errorf("the writer reads %q", got)
			}
			if body, err := stack.Get(pid(t, s, second), "8080", "/file?path=/tmp/mine"); err == nil {
				t.Errorf("the other container reads %q", body)
			}
			if a, b := netnsOf(t, s, first), netnsOf(t, s, second); a == b {
				t.Errorf("both are in network namespace %s", a)
			}
		})
	}
}

func netnsOf(t *testing.T, s *stack.Stack, id string) string {
	t.Helper()
	link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid(t, s, id)))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestWhatAWokenContainerWritesIsInItsSnapshot(t *testing.T) {
	for _, rung := range wakes {
		t.Run(rung.name, func(t *testing.T) {
			s := rung.ready(t)
			id := "snapshot-" + rung.name
			run(t, s, id, "python-demo")
			wantRung(t, s, id, rung.rung)
			get(t, s, id, "/write?path=/srv-marker&data=kept")
			mounts, err := s.Client.SnapshotService(stack.Snapshotter).Mounts(s.Context(t.Context()), id)
			if err != nil {
				t.Fatal(err)
			}
			var upper string
			for _, option := range mounts[0].Options {
				if dir, ok := strings.CutPrefix(option, "upperdir="); ok {
					upper = dir
				}
			}
			if data, err := os.ReadFile(filepath.Join(upper, "srv-marker")); err != nil || string(data) != "kept" {
				t.Errorf("the snapshot's upper directory holds %q, %v", data, err)
			}
		})
	}
}

func TestHostNameAndLimitsOfTheSpecAreBound(t *testing.T) {
	for _, rung := range wakes {
		t.Run(rung.name, func(t *testing.T) {
			s := rung.ready(t)
			id := "bound-" + rung.name
			run(t, s, id, "python-demo", "--hostname", "bound-host", "--cgroup", "/"+s.Namespace+"/"+id)
			wantRung(t, s, id, rung.rung)
			if got := get(t, s, id, "/hostname"); got != "bound-host" {
				t.Errorf("host name %q", got)
			}
			data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid(t, s, id)))
			if err != nil {
				t.Fatal(err)
			}
			for _, line := range strings.Split(strings.TrimSpace(string(data)), "\n") {
				// The systemd hierarchy is named only where systemd runs; every other one must hold the container in the cgroup of its spec.
				if !strings.HasSuffix(line, "/"+s.Namespace+"/"+id) {
					t.Errorf("cgroup %s", line)
				}
			}
		})
	}
}

func TestSparesAreClaimedOnce(t *testing.T) {
	seed := bakedPython(t, house)
	setPool(t, house, seed, 3)
	var wg sync.WaitGroup
	const starts = 8
	errs := make([]error, starts)
	for i := range starts {
		wg.Go(func() {
			_, errs[i] = house.Ctr(t.Context(), "run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter, stack.Ref("python-demo"), fmt.Sprintf("once-%d", i))
		})
	}
	wg.Wait()
	pids := map[int]string{}
	for i, err := range errs {
		id := fmt.Sprintf("once-%d", i)
		if err != nil {
			t.Error(err)
			continue
		}
		t.Cleanup(func() { remove(t, house, id) })
		p := pid(t, house, id)
		if other, taken := pids[p]; taken {
			t.Errorf("%s and %s are the same process %d", id, other, p)
		}
		pids[p] = id
		get(t, house, id, "/")
	}
}

func TestFrozenSpareUsesNoCPU(t *testing.T) {
	seed := bakedPython(t, house)
	setPool(t, house, seed, 2)
	before := sparesCPU(t, house)
	time.Sleep(2 * time.Second)
	if after := sparesCPU(t, house); before != after {
		t.Errorf("threads of spares ran: schedstat before %v, after %v", before, after)
	}
}

// sparesCPU is the schedstat line of every thread of every spare.
func sparesCPU(t *testing.T, s *stack.Stack) string {
	t.Helper()
	pids, err := s.SparePIDs()
	if err != nil || len(pids) == 0 {
		t.Fatalf("no spares: %v", err)
	}
	var b strings.Builder
	for _, pid := range pids {
		files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&b, "%s %s", file, data)
		}
	}
	return b.String()
}

func TestEachDemoAppIsBakedAndWoken(t *testing.T) {
	t.Parallel()
	for memory, config := range map[string]string{"of its own": stack.Restoring, "shared": sharing} {
		t.Run("memory "+memory, func(t *testing.T) {
			t.Parallel()
			eachDemoAppIsWoken(t, configuredStack(t, config, "tomcat-demo", "node-demo", "php-demo", "redis-demo"))
		})
	}
}

// sharing has the instances of every seed restored, and share its memory.
const sharing = stack.Restoring + "[restore]\nshared = true\nfrom = \"0B\"\n"

func eachDemoAppIsWoken(t *testing.T, s *stack.Stack) {
	for _, app := range []struct{ name, ready, warmup, port string }{
		{"tomcat-demo", "http://:8080/", "50", "8080"},
		{"node-demo", "http://:8080/", "20", "8080"},
		{"php-demo", "http://:8080/", "20", "8080"},
		{"redis-demo", "tcp://:6379", "0", ""},
	} {
		t.Run(app.name, func(t *testing.T) {
			seed := baked(t, s, app.name, app.name, "--ready", app.ready, "--warmup", app.warmup)
			for _, rung := range wokenRungs {
				setPool(t, s, seed, rung.spares)
				id := app.name + "-" + rung.name
				run(t, s, id, app.name)
				wantRung(t, s, id, rung.name)
				if app.port != "" {
					get(t, s, id, "/")
				} else {
					if err := askRedis(pid(t, s, id), 1); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
}

func TestContainerThatSharesItsMemoryIsCheckpointedOnceItHasSlept(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, sharing, "python-demo")
	setPool(t, s, bakedPython(t, s), 1)
	checkpointedOnceItHasSlept(t, s, "shares", "thaw", "shared = false", "/sprout-store-")
}

func TestCloneIsCheckpointedOnceItHasSlept(t *testing.T) {
	checkpointedOnceItHasSlept(t, wake{"fork", "fork", 0, true}.ready(t), "slept-clone", "fork", "enabled = false", "")
}

// checkpointedOnceItHasSlept starts a container of which ctr cannot make a checkpoint, which says what to do, before it has slept and was woken. mapped is in the names of what
// it has mapped until then.
func checkpointedOnceItHasSlept(t *testing.T, s *stack.Stack, id, rung, says, mapped string) {
	t.Helper()
	run(t, s, id, "python-demo", "--null-io")
	wantRung(t, s, id, rung)
	checkpoint := func() error {
		_, err := s.Ctr(contextOf(t), "task", "checkpoint", "--image-path", t.TempDir(), id)
		return err
	}
	if err := checkpoint(); err == nil || !strings.Contains(err.Error(), says) {
		t.Errorf("it is said: %v", err)
	}
	get(t, s, id, "/")
	if maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid(t, s, id))); err != nil || !strings.Contains(string(maps), mapped) {
		t.Errorf("%s is not mapped: %v", mapped, err)
	}
	for range 2 {
		doze(t, s, id)
		if has, all := onDisk(t, s, id); has > all/4 || all < 16<<20 {
			t.Errorf("asleep it takes %d of %d bytes on disk", has, all)
		}
		rouse(t, s, id)
		get(t, s, id, "/")
	}
	if err := checkpoint(); err != nil {
		t.Error(err)
	}
	get(t, s, id, "/")
}
