package seedpool

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestASpareIsClaimedOnceHoweverManyAsk(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 3)
	p.memory.mu.Lock()
	p.memory.until = time.Now().Add(time.Hour) // no more are made while it is counted
	p.memory.mu.Unlock()
	const callers = 8
	var wg sync.WaitGroup
	got, errs := make([]*api.Instance, callers), make([]error, callers)
	start := make(chan struct{})
	for n := range callers {
		who := b.container("ns", "c"+string(rune('0'+n)))
		wg.Go(func() {
			<-start
			got[n], errs[n] = p.claim(t.Context(), s.id, who, n%2 == 0)
		})
	}
	close(start)
	wg.Wait()
	pids := map[uint32]bool{}
	for n, inst := range got {
		if errs[n] != nil {
			if reason, _ := ReasonOf(errs[n]); reason != ReasonNoSpare || !errdefs.IsNotFound(errs[n]) {
				t.Errorf("caller %d: %v", n, errs[n])
			}
			continue
		}
		if pids[inst.Pid] {
			t.Errorf("process %d was given twice", inst.Pid)
		}
		pids[inst.Pid] = true
	}
	if len(pids) != 3 {
		t.Errorf("%d of 3 spares were claimed", len(pids))
	}
}

func TestAClaimedSpareHasItsRowBeforeTheAnswerAndItsFilesAreTheContainers(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	inst, err := p.claim(t.Context(), s.id, who, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.adopted(t.Context(), p.instance(inst.Id)); err != nil {
		t.Fatal(err)
	}
	rows, err := p.store.instances()
	if err != nil {
		t.Fatal(err)
	}
	n := slices.IndexFunc(rows, func(r *api.InstanceRow) bool { return r.Instance.Id == inst.Id })
	if n < 0 || rows[n].Phase != "claimed" || rows[n].Container != "c1" || !rows[n].Adopted || rows[n].Upperdir != who.upperdir || rows[n].ShimStartTime == 0 {
		t.Errorf("rows %v", rows)
	}
	if b.rootfs.seedOf(who.upperdir) != "adopted "+inst.Id {
		t.Errorf("the container's snapshot is %q", b.rootfs.seedOf(who.upperdir))
	}
	if inst.Keeper != p.paths.KeeperSocket(s.id) || inst.Seed != s.id || inst.Pid == 0 {
		t.Errorf("instance %v", inst)
	}
}

func TestASeedOfAnotherNamespaceIsNotThere(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	key := keyOf(t, spec())
	s := b.seed("tenant-a", "shop", key)
	b.fill(s, 1)
	who := b.container("tenant-b", "c1")
	if _, err := p.claim(t.Context(), s.id, who, false); !errdefs.IsNotFound(err) {
		t.Errorf("claim: %v", err)
	}
	if _, err := p.restoreFor(t.Context(), s.id, who, place{cgroup: "/x"}); !errdefs.IsNotFound(err) {
		t.Errorf("restore: %v", err)
	}
	if found := p.lookup("tenant-b", "sha256:image", keyOf(t, spec())); found.Seed != nil || found.Reason != string(ReasonNoSeed) || found.Nearest != "" {
		t.Errorf("lookup: %v", found)
	}
	sv := &service{pool: p}
	for _, name := range []string{"shop", s.id} {
		ref := &api.SeedRef{Namespace: "tenant-b", Name: name}
		if _, err := sv.InspectSeed(t.Context(), ref); err == nil {
			t.Error("inspected")
		}
		if _, err := sv.RemoveSeed(t.Context(), ref); err == nil {
			t.Error("removed")
		}
		if _, err := sv.SetPool(t.Context(), &api.SetPoolRequest{Namespace: "tenant-b", Seed: name, Spares: 1}); err == nil {
			t.Error("pool set")
		}
	}
	if list, err := sv.ListSeeds(t.Context(), &api.ListSeedsRequest{Namespace: "tenant-b"}); err != nil || len(list.Seeds) != 0 {
		t.Errorf("listed %v %v", list, err)
	}
}

func TestADeadSpareIsPassedOverForTheNext(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	p.mu.Lock()
	dead, alive := s.ready[0].row.Instance, s.ready[1].row.Instance
	p.mu.Unlock()
	killPID(t, int(dead.Pid))
	inst, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false)
	if err != nil || inst.Id != alive.Id {
		t.Fatalf("got %v, %v, want %s", inst, err, alive.Id)
	}
	b.eventually("the dead spare to go", func() error {
		if p.instance(dead.Id) != nil {
			return errors.New("it has a row")
		}
		return nil
	})
	b.ready("shop", 2)
}

func TestWhenAllSparesHaveDiedTheReasonSaysSo(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	b.breakKeeper(s, "no")
	p.mu.Lock()
	pid := s.ready[0].row.Instance.Pid
	p.mu.Unlock()
	killPID(t, int(pid))
	_, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false)
	if reason, _ := ReasonOf(toGRPC("x", err)); reason != ReasonSpareDied || !errdefs.IsNotFound(err) {
		t.Errorf("%v", err)
	}
}

func TestAThawedSpareIsNotHandedOut(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	p.mu.Lock()
	inst := s.ready[0].row.Instance
	p.mu.Unlock()
	if err := (linux.Cgroup{Path: inst.Cgroup}).Thaw(); err != nil {
		t.Fatal(err)
	}
	if got, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false); err == nil && got.Id == inst.Id {
		t.Error("a spare that has run was handed out")
	}
}

func TestAContainerThatNoSeedFitsGetsNoSpare(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	write(t, filepath.Join(who.upperdir, "written"), "x")
	_, err := p.claim(t.Context(), s.id, who, false)
	if reason, _ := ReasonOf(err); reason != ReasonUpperNotEmpty {
		t.Errorf("%v", err)
	}
	missing := who
	missing.upperdir = "/nowhere"
	_, err = p.claim(t.Context(), s.id, missing, false)
	if reason, _ := ReasonOf(err); reason != ReasonNotOurSnapshotter {
		t.Errorf("%v", err)
	}
	p.mu.Lock()
	row := s.ready[0].row
	p.mu.Unlock()
	if row.Phase != "ready" || row.Container != "" || row.Upperdir != "" {
		t.Errorf("the spare is %v", row)
	}
}

func TestASpareWhoseFilesCouldNotBeHandedOverIsDestroyedAndTheSnapshotRenewed(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	b.rootfs.setFail("Adopt", errors.New("disk on fire"))
	if _, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false); !errorSays(err, "disk on fire") {
		t.Fatalf("claimed: %v", err)
	}
	if !slices.Contains(b.rootfs.calls(), "Renew") {
		t.Errorf("calls %v", b.rootfs.calls())
	}
	b.rootfs.setFail("Adopt", nil)
	b.ready("shop", 1)
	b.nothingLeft()
}

func TestASpareWhoseFilesCouldNotBeHandedOverIsNotBound(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	b.rootfs.setFail("Adopt", errors.New("disk on fire"))
	inst, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), true)
	if err != nil {
		t.Fatal(err)
	}
	sv := &service{pool: p}
	if _, err := sv.Bound(t.Context(), &api.BoundRequest{Instance: inst.Id}); !errorSays(err, "disk on fire") {
		t.Errorf("bound: %v", err)
	}
	if _, err := sv.Discard(t.Context(), discardOf(inst.Id)); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(b.rootfs.calls(), "Renew") {
		t.Errorf("calls %v", b.rootfs.calls())
	}
	b.rootfs.setFail("Adopt", nil)
	b.ready("shop", 1)
	b.nothingLeft()
}

func TestBoundWaitsForTheFilesAndDiscardForTheirEnd(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	goOn := make(chan struct{})
	p.point = func(name string) {
		if name == "spare adopted" {
			<-goOn
		}
	}
	sv := &service{pool: p}
	kept, err := p.claim(t.Context(), s.id, b.container("ns", "kept"), true)
	if err != nil {
		t.Fatal(err)
	}
	given, err := p.claim(t.Context(), s.id, b.container("ns", "given"), true)
	if err != nil {
		t.Fatal(err)
	}
	answers := make(chan error, 2)
	go func() {
		_, err := sv.Bound(t.Context(), &api.BoundRequest{Instance: kept.Id})
		answers <- err
	}()
	go func() {
		_, err := sv.Discard(t.Context(), discardOf(given.Id))
		answers <- err
	}()
	select {
	case err := <-answers:
		t.Errorf("answered while the snapshot was being changed: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	// It has not been moved out of its spare's cgroup, which is removed when nobody is in it.
	if err := syscall.Kill(int(kept.Pid), syscall.SIGKILL); err != nil {
		t.Error(err)
	}
	close(goOn)
	for range 2 {
		if err := <-answers; err != nil {
			t.Error(err)
		}
	}
}

func TestAnAdoptionThatWasCutIsNeverBound(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	b.rootfs.setFail("Adopt", errors.New("cut"))
	inst, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), true)
	if err != nil {
		t.Fatal(err)
	}
	b.close()
	sv := &service{pool: b.recovered()}
	if _, err := sv.Bound(t.Context(), &api.BoundRequest{Instance: inst.Id}); !errorSays(err, "handed over") {
		t.Errorf("bound: %v", err)
	}
	if _, err := sv.Discard(t.Context(), discardOf(inst.Id)); err != nil {
		t.Error(err)
	}
}

func TestACallerWhoHasGivenUpGetsNothingAndItsSnapshotIsLeftAlone(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	ctx, cancel := context.WithTimeout(t.Context(), answerMargin/2)
	defer cancel()
	if _, err := p.claim(ctx, s.id, who, false); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
	if calls := b.rootfs.calls(); len(calls) != 0 {
		t.Errorf("its snapshot was touched: %v", calls)
	}
	b.ready("shop", 1)
}

func TestARestoredInstanceIsMadeInTheContainersOwnCgroup(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	who := b.container("ns", "c1")
	where := b.place("c1")
	group := where.cgroup
	made, err := p.restoreFor(t.Context(), s.id, who, where)
	inst := made.GetInstance()
	if err != nil {
		t.Fatal(err)
	}
	if procs, err := (linux.Cgroup{Path: group}).Procs(); err != nil || !slices.Contains(procs, int(inst.Pid)) {
		t.Errorf("processes %v, %v, want %d", procs, err, inst.Pid)
	}
	if b.rootfs.seedOf(who.upperdir) != s.id {
		t.Error("the seed does not lie under the container's snapshot")
	}
	if row := p.rowOf(p.instance(inst.Id)); row.Phase != "claimed" || !row.Restored || row.Container != "c1" {
		t.Errorf("row %v", row)
	}
}

func TestARestoreThatFailsLeavesNothingAndRenewsTheSnapshot(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1) // a keeper runs
	b.breakKeeper(s, "criu says no")
	who := b.container("ns", "c1")
	_, err := p.restoreFor(t.Context(), s.id, who, b.place("c1"))
	if err == nil {
		t.Fatal("restored")
	}
	if !errorSays(err, "criu says no") {
		t.Errorf("%v", err)
	}
	if !slices.Contains(b.rootfs.calls(), "Renew") || b.rootfs.seedOf(who.upperdir) != "" {
		t.Errorf("calls %v, seed %q", b.rootfs.calls(), b.rootfs.seedOf(who.upperdir))
	}
	b.nothingLeft()
}

func TestDiscardLeavesNothingOfAnInstance(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	sv := &service{pool: p}
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	for name, get := range map[string]func(who claimant) (*api.Instance, error){
		"claimed": func(who claimant) (*api.Instance, error) { return p.claim(t.Context(), s.id, who, false) },
		"restored": func(who claimant) (*api.Instance, error) {
			made, err := p.restoreFor(t.Context(), s.id, who, b.place("r"))
			inst := made.GetInstance()
			return inst, err
		},
		"bound": func(who claimant) (*api.Instance, error) {
			b.ready("shop", 1)
			inst, err := p.claim(t.Context(), s.id, who, false)
			if err == nil {
				err = p.bound(p.instance(inst.Id))
			}
			return inst, err
		},
	} {
		t.Run(name, func(t *testing.T) {
			who := b.container("ns", name)
			inst, err := get(who)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // the second time it is gone already
				if _, err := sv.Discard(t.Context(), &api.DiscardRequest{Instance: inst.Id, Reason: "bind-failed"}); err != nil {
					t.Fatal(err)
				}
			}
			if linux.Alive(int(inst.Pid), inst.StartTime) {
				t.Error("its process lives")
			}
			if b.rootfs.seedOf(who.upperdir) != "" {
				t.Error("the container's snapshot still has the seed's layer")
			}
			b.ready("shop", 1)
			b.nothingLeft()
		})
	}
}

func TestABoundInstanceLivesAndItsSpareCgroupGoes(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	sv := &service{pool: p}
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	inst, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false)
	if err != nil {
		t.Fatal(err)
	}
	moved := linux.Cgroup{Path: b.config.CgroupRoot + "/containers/c1"}
	if err := errors.Join(moved.Create(), moved.SetFrozen(true), moved.Attach(int(inst.Pid))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := sv.Bound(t.Context(), &api.BoundRequest{Instance: inst.Id}); err != nil {
			t.Fatal(err)
		}
	}
	b.eventually("its spare's cgroup to go", func() error {
		root, err := linux.UnifiedRoot()
		if err != nil {
			return err
		}
		if _, err := os.Stat(filepath.Join(root, inst.Cgroup)); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	if !linux.Alive(int(inst.Pid), inst.StartTime) {
		t.Error("its process has ended")
	}
	if _, err := sv.Bound(t.Context(), &api.BoundRequest{Instance: "unknown"}); !errdefs.IsNotFound(err) && err == nil {
		t.Errorf("an unknown instance was bound: %v", err)
	}
}

func TestAnInstanceWhoseShimDiedUnboundIsDestroyed(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 3)
	claimed := func(id string, shim uint32) *instance {
		who := b.container("ns", id)
		who.shimPID = shim
		inst, err := p.claim(t.Context(), s.id, who, false)
		if err != nil {
			t.Fatal(err)
		}
		return p.instance(inst.Id)
	}
	orphan, nameless, kept := claimed("orphan", 1<<22-1), claimed("nameless", 0), claimed("kept", uint32(os.Getpid()))
	now := time.Now()
	if err := p.orderInstances(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if p.instance(orphan.id) != nil {
		t.Error("the instance of a dead shim is still there")
	}
	if p.instance(nameless.id) == nil {
		t.Error("the instance of an unknown shim was destroyed before its time")
	}
	if err := p.orderInstances(t.Context(), now.Add(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	if p.instance(nameless.id) != nil {
		t.Error("the instance of an unknown shim is still there")
	}
	if p.instance(kept.id) == nil {
		t.Error("the instance of a living shim was destroyed")
	}
	if calls := b.rootfs.calls(); !slices.Contains(calls, "Plain") || slices.Contains(calls, "Renew") {
		t.Errorf("the container may run on its snapshot, which was touched: %v", calls)
	}
}

func TestAnInstanceThatRunsWasBound(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	who.shimPID = 1<<22 - 1
	inst, err := p.claim(t.Context(), s.id, who, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := (linux.Cgroup{Path: inst.Cgroup}).Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := p.orderInstances(t.Context(), time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if row := p.rowOf(p.instance(inst.Id)); row.Phase != "bound" || !linux.Alive(int(inst.Pid), inst.StartTime) {
		t.Errorf("row %v", row)
	}
}

func TestABoundInstanceIsForgottenWhenItsTaskIsGone(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	inst, err := p.claim(t.Context(), s.id, who, false)
	if err == nil {
		err = p.bound(p.instance(inst.Id))
	}
	if err != nil {
		t.Fatal(err)
	}
	killPID(t, int(inst.Pid))
	order := func() {
		t.Helper()
		if err := p.orderInstances(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	if order(); p.instance(inst.Id) == nil {
		t.Error("forgotten while its shim lives and the task is there")
	}
	remove(t, p.paths.InstanceDir(inst.Id))
	if order(); p.instance(inst.Id) != nil {
		t.Error("still known after its task was deleted")
	}
	if calls := b.rootfs.calls(); len(calls) != 1 || b.rootfs.seedOf(who.upperdir) == "" {
		t.Errorf("the stopped container's snapshot was touched: %v", calls)
	}
}

func TestWhatAContainerClaimedAndLeftIsDestroyedWhenItAsksAgain(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	first, err := p.claim(t.Context(), s.id, who, false)
	if err != nil {
		t.Fatal(err)
	}
	made, err := p.restoreFor(t.Context(), s.id, who, b.place("c1"))
	second := made.GetInstance()
	if err != nil {
		t.Fatal(err)
	}
	if linux.Alive(int(first.Pid), first.StartTime) || p.instance(first.Id) != nil {
		t.Error("the first instance is still there")
	}
	if b.rootfs.seedOf(who.upperdir) != s.id || p.instance(second.Id) == nil {
		t.Error("the second lost its layer with the first")
	}
}

func TestAColdStartGivesBackWhatWasClaimedForIt(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	inst, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false)
	if err != nil {
		t.Fatal(err)
	}
	sv := &service{pool: p}
	if _, err := sv.Report(t.Context(), &api.ReportRequest{Start: &api.Start{Namespace: "ns", Id: "c1", Rung: "cold"}}); err != nil {
		t.Fatal(err)
	}
	b.eventually("the instance to go", func() error {
		if p.instance(inst.Id) != nil {
			return errors.New("it has a row")
		}
		return nil
	})
}
