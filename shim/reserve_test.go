package shim

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// lookAhead has the shim do what it does when it was assigned the container, and waits until it is done.
func (b *bed) lookAhead(r *taskAPI.CreateTaskRequest) {
	b.t.Helper()
	b.lookAheadFor(r, seedpool.Foreseen{Rung: seedpool.RungThaw, Upperdir: upperOf(r.Rootfs[0].Options)})
}

// lookAheadFor is lookAhead with what the test foresees.
func (b *bed) lookAheadFor(r *taskAPI.CreateTaskRequest, foreseen seedpool.Foreseen) {
	b.t.Helper()
	client, err := seedpool.Dial(b.t.Context(), b.tasks.paths.APISocket())
	if err != nil {
		b.t.Fatal(err)
	}
	b.tasks.ahead = lookAhead(seedpool.IdleParams{
		ShimParams: seedpool.ShimParams{Namespace: b.tasks.params.Namespace, Bundle: r.Bundle, ID: r.ID}, Foreseen: foreseen,
	}, b.tasks.paths, client)
	select {
	case reserved := <-b.tasks.ahead.reserved:
		if reserved != nil {
			b.t.Errorf("%s was reserved before anybody has connected", reserved.instance.Id)
		}
	case <-time.After(20 * time.Millisecond):
	}
	b.tasks.ahead.connected()
	// The one that will be received stays where it is.
	again := make(chan *reservation, 1)
	if reserved := <-b.tasks.ahead.reserved; reserved != nil {
		if reserved.adopted != nil {
			if err := reserved.adopted(); err != nil {
				b.t.Fatal(err)
			}
		}
		again <- reserved
	}
	close(again)
	b.tasks.ahead.reserved = again
}

// made is the number of instances that sproutd has given, and how many of them live.
func (b *bed) made() (made, alive int) {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	for _, inst := range b.pool.have {
		if linux.Alive(int(inst.Pid), inst.StartTime) {
			alive++
		}
	}
	return b.pool.count, alive
}

func TestReservedSpareIsInItsCgroupBeforeTheRequestAndWokenByIt(t *testing.T) {
	b := newBed(t, "echo ready; read line; echo $line; sleep 1000")
	r := b.request("c1", b.spec(b.cgroup("c1")))
	out := b.lines(r.Stdout)
	b.lookAhead(r)
	cgroup := linux.Cgroup{Path: b.cgroup("c1")}
	pids, err := cgroup.Procs()
	if err != nil || len(pids) == 0 {
		t.Fatalf("processes %v, %v", pids, err)
	}
	if frozen, err := cgroup.Frozen(); err != nil || !frozen {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
	task := b.woken(r, seedpool.RungThaw)
	if int(task.pid()) != pids[0] {
		t.Errorf("process %d was woken, %v had been moved", task.pid(), pids)
	}
	if list := fallbacks(task.record); len(list) > 0 {
		t.Errorf("fallbacks %v", list)
	}
	if made, _ := b.made(); made != 1 {
		t.Errorf("%d instances were taken", made)
	}
	b.start(task)
	b.writer(r.Stdin)("hello")
	b.want(out, "hello")
	b.kill(task, 9)
	b.ends(task, 137)
}

func TestCloneIsMadeBeforeTheRequestAndWokenByIt(t *testing.T) {
	b := newBed(t, "echo ready; sleep 1000")
	b.pool.spares, b.pool.forks = 0, true
	r := b.request("c1", b.spec(b.cgroup("c1")))
	foreseen := seedpool.Foreseen{Rung: seedpool.RungFork, Upperdir: upperOf(r.Rootfs[0].Options)}
	b.lookAheadFor(r, foreseen)
	if made, alive := b.made(); made != 1 || alive != 1 {
		t.Fatalf("%d instances were made, %d live", made, alive)
	}
	task := b.woken(r, seedpool.RungFork)
	if got := fallbacks(task.record); !slices.Equal(got, []string{"thaw no-spare"}) {
		t.Errorf("fallbacks %v", got)
	}
	if made, _ := b.made(); made != 1 {
		t.Errorf("%d instances were made", made)
	}
	ahead := task.record.start.Ahead
	if !slices.ContainsFunc(ahead, func(p *api.Phase) bool { return p.Name == "fork.criu" }) {
		t.Errorf("done ahead: %v", ahead)
	}
	b.start(task)
	b.kill(task, 9)
	b.ends(task, 137)
	// A spare has come: a clone is not what the start would begin with.
	b.pool.spares = 1
	r = b.request("c2", b.spec(b.cgroup("c2")))
	foreseen.Upperdir = upperOf(r.Rootfs[0].Options)
	b.lookAheadFor(r, foreseen)
	if made, alive := b.made(); made != 1 || alive != 0 {
		t.Errorf("%d instances were made, %d live", made, alive)
	}
}

func TestReservationThatIsNotForTheRequestIsDropped(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*bed, *taskAPI.CreateTaskRequest)
		woken  bool
		cold   []string
	}{
		"another snapshot": {func(b *bed, r *taskAPI.CreateTaskRequest) {
			for n, o := range r.Rootfs[0].Options {
				if upper, ok := strings.CutPrefix(o, "upperdir="); ok {
					r.Rootfs[0].Options[n] = "upperdir=" + filepath.Join(upper, "..", "another")
				}
			}
		}, true, nil},
		"another spec by now": {func(b *bed, r *taskAPI.CreateTaskRequest) {
			b.bundle(r.ID, b.spec(b.cgroup("c1")))
		}, true, nil},
		"a terminal": {func(_ *bed, r *taskAPI.CreateTaskRequest) {
			r.Terminal = true
		}, false, []string{"thaw tty", "restore tty"}},
		"no spec": {func(b *bed, r *taskAPI.CreateTaskRequest) {
			if err := os.Remove(r.Bundle + "/config.json"); err != nil {
				b.t.Fatal(err)
			}
		}, false, []string{"thaw key-failed", "restore key-failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, "echo ready; sleep 1000")
			r := b.request("c1", b.spec(b.cgroup("c1")))
			b.lookAhead(r)
			test.change(b, r)
			if !test.woken {
				b.cold(r, test.cold...)
				return
			}
			task := b.woken(r, seedpool.RungThaw)
			if made, alive := b.made(); made != 2 || alive != 1 {
				t.Errorf("%d instances were taken, %d live", made, alive)
			}
			// What is given back is sproutd's to remove.
			if err := os.RemoveAll(filepath.Join(b.dir, "instances", b.pool.discarded[0])); err != nil {
				t.Fatal(err)
			}
			b.start(task)
			b.kill(task, 9)
			b.ends(task, 137)
		})
	}
}

func TestReservedSpareIsWokenThoughSproutdHasDied(t *testing.T) {
	b := newBed(t, "echo ready; sleep 1000")
	r := b.request("c1", b.spec(b.cgroup("c1")))
	b.lookAhead(r)
	if err := b.pool.listener.die(); err != nil {
		t.Fatal(err)
	}
	task := b.woken(r, seedpool.RungThaw)
	b.start(task)
	b.kill(task, 9)
	// The next sproutd finds out by itself that the spare was taken.
	if err := (linux.Cgroup{Path: task.now().instance.Cgroup}).Remove(); err != nil {
		t.Fatal(err)
	}
	b.ends(task, 137)
}

func TestReservedSpareWithMoreRightsThanTheSpecIsKilled(t *testing.T) {
	b := newBed(t, "echo ready; sleep 1000")
	b.pool.alter = func(s *specs.Spec) {
		caps := append(slices.Clone(s.Process.Capabilities.Permitted), "CAP_SYS_ADMIN")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps}
	}
	r := b.request("c1", b.spec(b.cgroup("c1")))
	b.lookAhead(r)
	b.cold(r, "thaw creds-differ", "restore creds-differ")
}

func TestReservationEndsWithTheShimWhenNoRequestComes(t *testing.T) {
	b := newBed(t, "echo ready; sleep 1000")
	r := b.request("c1", b.spec(b.cgroup("c1")))
	b.lookAhead(r)
	if _, alive := b.made(); alive != 1 {
		t.Fatal("nothing was reserved")
	}
	if err := b.tasks.close(); err != nil {
		t.Fatal(err)
	}
	b.nothingHeld()
}

func TestNothingIsReservedForWhatIsNotThawed(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"terminal":     func(s *specs.Spec) { s.Process.Terminal = true },
		"host network": func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[:4] },
		"systemd":      func(s *specs.Spec) { s.Linux.CgroupsPath = "system.slice:sprout:c1" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, "echo ready; sleep 1000")
			spec := b.spec(b.cgroup("c1"))
			change(spec)
			b.lookAhead(b.request("c1", spec))
			if made, _ := b.made(); made != 0 {
				t.Errorf("%d instances were taken", made)
			}
		})
	}
}

func TestNothingIsReservedThatSproutdDoesNotForesee(t *testing.T) {
	b := newBed(t, "echo ready; sleep 1000")
	r := b.request("c1", b.spec(b.cgroup("c1")))
	b.lookAheadFor(r, seedpool.Foreseen{})
	if made, _ := b.made(); made != 0 {
		t.Errorf("%d instances were taken", made)
	}
	task := b.woken(r, seedpool.RungThaw)
	b.start(task)
	b.kill(task, 9)
	b.ends(task, 137)
}

func TestFailedReservationIsNoReasonToFallBack(t *testing.T) {
	b := newBed(t, "echo ready; sleep 1000")
	b.pool.fail = map[string]error{"Reserve": errdefs.ErrNotFound}
	r := b.request("c1", b.spec(b.cgroup("c1")))
	b.lookAhead(r)
	task := b.woken(r, seedpool.RungThaw)
	if list := fallbacks(task.record); len(list) > 0 {
		t.Errorf("fallbacks %v", list)
	}
	if r := b.tasks.ahead.reservation("c1"); r != nil {
		r.drop(context.Background())
		t.Error("there is a reservation")
	}
	b.start(task)
	b.kill(task, 9)
	b.ends(task, 137)
}
