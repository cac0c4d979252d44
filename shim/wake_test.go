package shim

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// fallbacks are the rungs and reasons of a record.
func fallbacks(rec *startRecord) []string {
	var list []string
	for _, f := range rec.start.Fallbacks {
		list = append(list, f.Rung+" "+f.Reason)
	}
	return list
}

// cold creates a container and fails the test when it did not go cold for the given reasons, leaving nothing.
func (b *bed) cold(r *taskAPI.CreateTaskRequest, want ...string) *startRecord {
	b.t.Helper()
	resp, rec, err := b.tasks.create(b.ctx(), r)
	if err != nil || resp != nil {
		b.t.Fatalf("create: %v, %v, want it to go cold", resp, err)
	}
	if diff := cmp.Diff(want, fallbacks(rec)); diff != "" {
		b.t.Errorf("fallbacks: %s", diff)
	}
	if rec.start.Rung != string(seedpool.RungCold) {
		b.t.Errorf("rung %s, want cold", rec.start.Rung)
	}
	if b.tasks.get(r.ID) != nil || len(b.eventNames()) > 0 {
		b.t.Errorf("a cold start left a woken task or events: %v", b.eventNames())
	}
	b.nothingHeld()
	return rec
}

// nothingHeld fails the test when an instance outlived its failed start, or the cgroup that runc would need is there.
func (b *bed) nothingHeld() {
	b.t.Helper()
	for id, inst := range b.pool.have {
		// A cgroup is empty a moment before the process that was killed in it has ended.
		pidfd, err := linux.OpenPidfd(int(inst.Pid))
		if errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			b.t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		if err := pidfd.Wait(ctx); err != nil && linux.Alive(int(inst.Pid), inst.StartTime) {
			b.t.Errorf("instance %s lives", id)
		}
		cancel()
		mustClose(b.t, pidfd)
	}
	hierarchies, err := linux.Hierarchies()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, root := range hierarchies {
		if _, err := os.Stat(filepath.Join(root, b.cgroup("c1"))); !errors.Is(err, os.ErrNotExist) {
			b.t.Errorf("cgroup is still in %s: %v", root, err)
		}
	}
	if states, err := filepath.Glob(filepath.Join(b.dir, "runc", bedNamespace, "*")); err != nil || len(states) > 0 {
		b.t.Errorf("runc states left: %v, %v", states, err)
	}
}

// refusal is an answer of sproutd with a reason code.
func refusal(t *testing.T, reason seedpool.Reason) error {
	t.Helper()
	s, err := status.New(codes.NotFound, "no").WithDetails(&api.Refusal{Reason: string(reason)})
	if err != nil {
		t.Fatal(err)
	}
	return s.Err()
}

func TestFailedClaimFallsBackToRestore(t *testing.T) {
	for _, c := range []struct {
		name string
		err  error
		want seedpool.Reason
	}{
		{"no spare is ready any more", refusal(t, seedpool.ReasonNoSpare), seedpool.ReasonNoSpare},
		{"disk full", refusal(t, seedpool.ReasonDiskFull), seedpool.ReasonDiskFull},
		{"anything else", errdefs.ErrInternal, seedpool.ReasonClaimFailed},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, answering)
			b.pool.fail = map[string]error{"Claim": c.err}
			task := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungRestore)
			if diff := cmp.Diff([]string{"thaw " + string(c.want)}, fallbacks(task.record)); diff != "" {
				t.Error(diff)
			}
			b.kill(task, 9)
			b.ends(task, 137)
		})
	}
}

func TestSpareWhoseFilesCannotBecomeTheContainersIsGivenBack(t *testing.T) {
	b := newBed(t, answering)
	b.pool.fail = map[string]error{"Adopted": refusal(t, seedpool.ReasonUpperNotEmpty), "Restore": errdefs.ErrInternal}
	b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw "+string(seedpool.ReasonUpperNotEmpty), "restore restore-failed")
	if len(b.pool.discarded) != 1 {
		t.Errorf("given back: %v, want one instance", b.pool.discarded)
	}
}

// TestAStartThatHasWaitedForItsTurnDoesNotWaitAgain starts cold when the node is busy: what comes below would have to wait, too.
func TestAStartThatHasWaitedForItsTurnDoesNotWaitAgain(t *testing.T) {
	b := newBed(t, answering)
	b.pool.forks = true
	b.pool.fail = map[string]error{"Claim": refusal(t, seedpool.ReasonNoSpare), "Restore": refusal(t, seedpool.ReasonBusy)}
	record := b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw no-spare", "fork busy", "restore busy")
	if restore := record.start.Fallbacks[2]; restore.Nanoseconds != 0 || restore.Detail != "" {
		t.Errorf("it has waited again: %v", restore)
	}
}

func TestSproutdThatDiesDuringTheStartIsAReason(t *testing.T) {
	b := newBed(t, answering)
	b.pool.onClaim = func() error { return b.pool.listener.die() }
	b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw sproutd-down", "restore sproutd-down")
}

func TestFailedRestoreFallsBackToCold(t *testing.T) {
	b := newBed(t, answering)
	b.pool.spares = 0
	b.pool.fail = map[string]error{"Restore": errdefs.ErrInternal}
	b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw no-spare", "restore restore-failed")
}

func TestSpareThatDiedIsNotMistakenForABindThatFailed(t *testing.T) {
	b := newBed(t, answering)
	b.pool.afterMake = func(inst *api.Instance) error {
		p, err := linux.OpenPidfd(int(inst.Pid))
		if err != nil {
			return err
		}
		defer p.Close()
		return errors.Join(p.Signal(sigkill), p.Wait(t.Context()))
	}
	b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw spare-died", "restore restore-failed")
}

func TestSproutdThatCannotTakeTheLastWordChangesNothing(t *testing.T) {
	b := newBed(t, answering)
	b.pool.fail = map[string]error{"Bound": errdefs.ErrUnavailable}
	task := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	b.start(task)
	b.kill(task, 9)
	// sproutd finds out by itself that the spare was taken.
	if err := (linux.Cgroup{Path: task.now().instance.Cgroup}).Remove(); err != nil {
		t.Fatal(err)
	}
	b.ends(task, 137)
}

func TestSproutdAwayIsAReason(t *testing.T) {
	b := newBed(t, answering)
	if err := os.Remove(b.tasks.paths.APISocket()); err != nil {
		t.Fatal(err)
	}
	b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw sproutd-down", "restore sproutd-down")
}

func TestUnreadableSpecIsLeftToRunc(t *testing.T) {
	b := newBed(t, answering)
	r := b.request("c1", b.spec(b.cgroup("c1")))
	if err := os.WriteFile(filepath.Join(r.Bundle, "config.json"), []byte(`{"linux":`), 0o600); err != nil {
		t.Fatal(err)
	}
	b.cold(r, "thaw key-failed", "restore key-failed")
}

func TestInstanceWithMoreRightsThanTheSpecIsKilled(t *testing.T) {
	for _, c := range []struct {
		name  string
		alter func(*specs.Spec)
		says  string
	}{
		{"a capability more", func(s *specs.Spec) {
			more := append(slices.Clone(s.Process.Capabilities.Bounding), "CAP_SYS_ADMIN")
			s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: more, Effective: more, Permitted: more}
		}, "capabilities"},
		{"no_new_privs not set", func(s *specs.Spec) { s.Process.NoNewPrivileges = false }, "no_new_privs"},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newBed(t, answering)
			b.pool.alter = c.alter
			rec := b.cold(b.request("c1", b.spec(b.cgroup("c1"))), "thaw creds-differ", "restore creds-differ")
			if detail := rec.start.Fallbacks[0].Detail; !strings.Contains(detail, c.says) {
				t.Errorf("detail %q does not name %s", detail, c.says)
			}
		})
	}
}

func TestInstanceOfAnotherUserIsKilled(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Process.User = specs.User{UID: 1000, GID: 1000}
	spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: spec.Process.Capabilities.Bounding}
	b.cold(b.request("c1", spec), "thaw creds-differ", "restore creds-differ")
}

func TestCgroupThatIsInUseIsRefusedAsRuncRefusesIt(t *testing.T) {
	b := newBed(t, answering)
	taken := linux.Cgroup{Path: b.cgroup("c1")}
	if err := taken.Create(); err != nil {
		t.Fatal(err)
	}
	b.sleeper(taken)
	resp, rec, err := b.tasks.create(b.ctx(), b.request("c1", b.spec(taken.Path)))
	if err != nil || resp != nil {
		t.Fatalf("create: %v, %v, want it to go cold", resp, err)
	}
	if diff := cmp.Diff([]string{"thaw bind-failed", "restore bind-failed"}, fallbacks(rec)); diff != "" {
		t.Error(diff)
	}
	if pids, err := taken.Procs(); err != nil || len(pids) != 1 {
		t.Errorf("the cgroup's own process is gone: %v, %v", pids, err)
	}
}

func TestHostNetworkAndNetnsPathAreRestoredWhereTheyBelong(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == "network" })
	task := b.woken(b.request("c1", spec), seedpool.RungRestore)
	if diff := cmp.Diff([]string{"thaw host-network"}, fallbacks(task.record)); diff != "" {
		t.Error(diff)
	}
	same, err := sameFile(namespaceFile(int(task.pid()), "net"), "/proc/self/ns/net")
	if err != nil || !same {
		t.Errorf("task is in the host's network: %t, %v", same, err)
	}
	b.kill(task, 9)
	b.ends(task, 137)
}

func TestRecordOfAStartIsWrittenReportedAndRemoved(t *testing.T) {
	b := newBed(t, answering)
	b.pool.reported = make(chan *api.Start, 1)
	task := b.woken(b.request("c1", b.spec(b.cgroup("c1"))), seedpool.RungThaw)
	file := b.tasks.paths.StartRecord(bedNamespace, "c1")
	b.start(task)
	reported := <-b.pool.reported
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var kept api.Start
	if err := protojson.Unmarshal(data, &kept); err != nil {
		t.Fatal(err)
	}
	for _, start := range []*api.Start{reported, &kept} {
		if start.Rung != "thaw" || start.Seed != "s1" || start.Pid != task.pid() || start.Namespace != bedNamespace || len(start.Fallbacks) != 0 {
			t.Errorf("record: %v", start)
		}
		for _, name := range []string{"read", "lookup", "claim", "cgroup", "move", "hostname", "verify", "state", "stdio", "thaw", "create", "start"} {
			mustHave(t, start.Phases, name)
		}
		if sum, spent := task.record.sum(), task.record.inShim; (sum - spent).Abs() > spent/100 {
			t.Errorf("phases add up to %v of %v", sum, spent)
		}
	}
	b.kill(task, 9)
	b.ends(task, 137)
	if _, err := os.Stat(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("record outlives its task: %v", err)
	}
}

func TestLateMountsAppearInTheFrozenContainer(t *testing.T) {
	b := newBed(t, answering)
	spec := b.spec(b.cgroup("c1"))
	spec.Hostname = "late"
	hosts := filepath.Join(b.dir, "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 late\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/etc/hosts", Type: "bind", Source: hosts, Options: []string{"rbind", "ro"}})
	task := b.woken(b.request("c1", spec), seedpool.RungThaw)
	b.start(task)
	out := b.oci("exec", "c1", "/bin/sh", "-c", "hostname; cat /etc/hosts; grep /etc/hosts /proc/self/mountinfo")
	if !strings.HasPrefix(out, "late\n127.0.0.1 late\n") || !strings.Contains(out, " ro,") {
		t.Errorf("in the container: %s", out)
	}
	b.kill(task, 9)
	b.ends(task, 137)
}
