package shim

import (
	"context"
	"os"
	"os/exec"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// TestWhatTheSpecDoesNotLimitIsLimitedAsWeAre: as a child of runc's would be, which has what we have.
func TestWhatTheSpecDoesNotLimitIsLimitedAsWeAre(t *testing.T) {
	const name = "RLIMIT_MSGQUEUE"
	cgroup := linux.Cgroup{Path: "/sprout-test-limits"}
	instance := exec.Command("/bin/sleep", "1000")
	do := func(steps ...func() error) {
		t.Helper()
		for _, step := range steps {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
	}
	do(cgroup.Create, instance.Start)
	t.Cleanup(func() {
		_ = instance.Process.Kill()
		_ = instance.Wait() // or the reaper has
		if err := cgroup.WaitEmpty(context.Background()); err == nil {
			_ = cgroup.Remove()
		}
	})
	pid := instance.Process.Pid
	score, err := linux.OOMScore(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = linux.SetOOMScore(os.Getpid(), score) })
	has, err := linux.GetRlimit(pid, name)
	if err != nil {
		t.Fatal(err)
	}
	ours := linux.Rlimit{Type: name, Soft: has.Soft - 2, Hard: has.Hard - 1}
	do(
		func() error { return cgroup.Attach(pid) },
		func() error { return linux.SetOOMScore(os.Getpid(), score+7) },
		func() error { return linux.SetRlimits(os.Getpid(), []linux.Rlimit{ours}) },
	)
	a := &attempt{wake: &wake{spec: &specs.Spec{Process: new(specs.Process)}}}
	a.instance, a.cgroup = &api.Instance{Pid: uint32(pid)}, cgroup
	do(func() error { return a.setRlimits(t.Context()) }, func() error { return a.setOOMScore(t.Context()) })

	if got, err := linux.OOMScore(pid); err != nil || got != score+7 {
		t.Errorf("OOM score %d, %v; ours is %d", got, err, score+7)
	}
	if got, err := linux.GetRlimit(pid, name); err != nil || got.Hard != ours.Hard || got.Soft != min(has.Soft, ours.Hard) {
		t.Errorf("%+v, %v; it had %+v, ours is %+v", got, err, has, ours)
	}
}
