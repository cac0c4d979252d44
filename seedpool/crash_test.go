package seedpool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// sproutdOptions tell a sproutd process of the tests what to do: work on one pool until it kills itself.
type sproutdOptions struct {
	Config Config
	Rootfs string
	// KillAt is the point, Nth how often it is passed before.
	KillAt string
	Nth    int64
}

// run does all that a pool can be asked for, over and over.
func (o sproutdOptions) run(ctx context.Context) error {
	rootfs := &dirRootfs{root: o.Rootfs}
	p := testPool(o.Config, rootfs)
	var passed atomic.Int64
	p.point = func(name string) {
		if name == o.KillAt && passed.Add(1) > o.Nth {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		}
	}
	if err := p.open(ctx); err != nil {
		return err
	}
	<-p.Recovered()
	for n := 0; ctx.Err() == nil; n++ {
		if err := o.work(ctx, p, rootfs, n); err != nil {
			return err
		}
	}
	return p.Close()
}

// work starts three containers and bakes the seed again.
func (o sproutdOptions) work(ctx context.Context, p *Pool, rootfs *dirRootfs, n int) error {
	s, err := p.find("ns", "shop")
	if err != nil {
		return err
	}
	sv := &service{pool: p}
	for _, kind := range []string{"thaw", "discard", "restore"} {
		id := fmt.Sprintf("%s-%d-%d", kind, os.Getpid(), n)
		upper, err := rootfs.addContainer(id)
		if err != nil {
			return err
		}
		who := claimant{"ns", id, upper, uint32(os.Getpid())}
		var instance string
		switch kind {
		case "restore":
			group := linux.Cgroup{Path: o.Config.CgroupRoot + "/containers/" + id}
			if err := group.Create(); err != nil {
				return err
			}
			made, err := p.restoreFor(ctx, s.id, who, place{cgroup: group.Path})
			inst := made.GetInstance()
			if err != nil {
				return err
			}
			instance = inst.Id
		default:
			inst, err := p.claim(ctx, s.id, who, n%2 == 0)
			if reason, _ := ReasonOf(err); reason == ReasonNoSpare || reason == ReasonSpareDied {
				continue
			}
			if err != nil {
				return err
			}
			instance = inst.Id
		}
		if _, err := sv.Discard(ctx, discardOf(instance)); err != nil {
			return err
		}
	}
	if n%4 == 3 {
		if _, err := addSeed(p, rootfs, "ns", "shop", s.meta.Info.Key); err != nil {
			return err
		}
		gone, err := addSeed(p, rootfs, "ns", "gone", s.meta.Info.Key)
		if err != nil {
			return err
		}
		return p.removeSeed(ctx, gone)
	}
	return nil
}

// points are all the places at which the pool can be cut.
var points = []string{
	"instance begun", "instance made", "instance dying", "spare claimed", "spare adopted", "snapshot over seed",
	"seed dumped", "seed tried", "seed counts", "seed row deleted",
	"end cut bakes", "find keepers", "recover instances", "remove cgroups", "remove instance directories", "remove seed directories", "remove snapshots",
}

func TestKill9AtAnyPointLosesNothingAndLeavesNothing(t *testing.T) {
	for _, point := range points {
		t.Run(point, func(t *testing.T) {
			b := newBed(t)
			b.recovered()
			s := b.seed("ns", "shop", keyOf(t, spec()))
			b.fill(s, 2)
			b.close()
			for nth := range int64(3) {
				if nth > 0 && slices.Index(points, point) > slices.Index(points, "seed row deleted") {
					break // a point of recovery is passed once
				}
				b.crash(point, nth)
				b.recovered()
				b.whole()
				b.close()
			}
		})
	}
}

// TestKill9AtAnyMoment cuts where no point is.
func TestKill9AtAnyMoment(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	b.close()
	for n := range 15 {
		cmd := b.sproutd("never", 0)
		time.Sleep(time.Duration(10+n*37) * time.Millisecond) // the moment itself is what is tested
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		b.recovered()
		b.whole()
		b.close()
	}
}

func (b *bed) sproutd(point string, nth int64) *exec.Cmd {
	b.t.Helper()
	cmd, err := self("sproutd", sproutdOptions{Config: b.config, Rootfs: b.rootfs.root, KillAt: point, Nth: nth})
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return cmd
}

// crash runs a sproutd until it has killed itself.
func (b *bed) crash(point string, nth int64) {
	b.t.Helper()
	cmd := b.sproutd(point, nth)
	timer := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer timer.Stop()
	err := cmd.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || !exit.Sys().(syscall.WaitStatus).Signaled() {
		b.t.Fatalf("sproutd did not reach %q: %v", point, err)
	}
}

// whole makes sure that the pool is full again, that nothing is left of anything else, and that starts work.
func (b *bed) whole() {
	b.t.Helper()
	p := b.pool
	b.ready("shop", 2)
	b.eventually("what was claimed by the dead to go", func() error {
		if err := p.orderInstances(context.Background(), time.Now().Add(time.Minute)); err != nil {
			return err
		}
		if left := append(b.leftovers(), b.strays()...); len(left) > 0 {
			return errors.New(strings.Join(left, ", "))
		}
		return nil
	})
	s, err := p.find("ns", "shop")
	if err != nil {
		b.t.Fatal(err)
	}
	if _, _, problems, err := s.dir.verify(false); err != nil || len(problems) > 0 {
		b.t.Fatalf("the seed is damaged: %v %v", problems, err)
	}
	inst, err := p.claim(context.Background(), s.id, b.container("ns", newID()), false)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := p.destroy(context.Background(), p.instance(inst.Id), fateRenew); err != nil {
		b.t.Fatal(err)
	}
	b.ready("shop", 2)
}

// nothingLeft waits until all that exists has its row: what is dropped is destroyed in the background.
func (b *bed) nothingLeft() {
	b.t.Helper()
	b.eventually("nothing to be left", func() error {
		if left := append(b.leftovers(), b.strays()...); len(left) > 0 {
			return errors.New(strings.Join(left, ", "))
		}
		return nil
	})
}

// strays lists processes, seeds and keepers that no row names.
func (b *bed) strays() []string {
	b.t.Helper()
	p := b.pool
	p.mu.Lock()
	seeds, pids := map[string]bool{}, map[int]bool{}
	for id := range p.seeds {
		seeds[id] = true
	}
	for _, i := range p.instances {
		pids[int(i.row.Instance.Pid)] = true
	}
	p.mu.Unlock()
	var found []string
	for _, pid := range b.processes() {
		if !pids[pid] {
			found = append(found, fmt.Sprintf("process %d", pid))
		}
	}
	layers, _, err := b.rootfs.List(context.Background())
	if err != nil {
		b.t.Fatal(err)
	}
	for what, list := range map[string][]string{"seed directory": names(b.t, p.paths.SeedsDir()), "layer": layers} {
		for _, id := range list {
			if !seeds[id] {
				found = append(found, what+" "+id)
			}
		}
	}
	for _, file := range names(b.t, p.paths.KeepersDir()) {
		if id, isPID := strings.CutSuffix(file, ".sock.pid"); isPID && !seeds[id] {
			found = append(found, "keeper "+id)
		}
	}
	return found
}

// processes are all that live below the bed's cgroup.
func (b *bed) processes() []int {
	b.t.Helper()
	root, err := linux.UnifiedRoot()
	if err != nil {
		b.t.Fatal(err)
	}
	var pids []int
	for _, kind := range []string{"spares", "containers"} {
		for _, id := range dirNames(b.t, filepath.Join(root, b.config.CgroupRoot, kind)) {
			list, err := (linux.Cgroup{Path: filepath.Join(b.config.CgroupRoot, kind, id)}).Procs()
			if err != nil {
				b.t.Fatal(err)
			}
			pids = append(pids, list...)
		}
	}
	return pids
}

func TestARestartKeepsSparesAndKeepers(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	keeper, before := b.keeperPID(s), b.processes()
	b.close()
	if after := b.processes(); !slices.Equal(before, after) {
		t.Errorf("spares %v became %v when sproutd ended", before, after)
	}
	b.recovered()
	b.ready("shop", 2)
	if after := b.processes(); !slices.Equal(before, after) {
		t.Errorf("spares %v became %v when sproutd came back", before, after)
	}
	if b.keeperPID(s) != keeper {
		t.Error("the keeper is another process")
	}
}

func TestAfterARebootThePoolsAreFilledAgain(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	b.close()
	b.endKeepers()
	if err := removeCgroup(t.Context(), linux.Cgroup{Path: b.config.CgroupRoot}); err != nil {
		t.Fatal(err)
	}
	remove(t, b.config.RunDir)
	b.recovered()
	b.ready("shop", 2)
	b.nothingLeft()
}

func TestSparesOfAKeeperThatDiedAreReplaced(t *testing.T) {
	for name, down := range map[string]bool{"while sproutd runs": false, "while sproutd is away": true} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.recovered()
			s := b.seed("ns", "shop", keyOf(t, spec()))
			b.fill(s, 2)
			old := b.processes()
			if down {
				b.close()
			}
			killPID(t, b.keeperPID(s))
			if down {
				b.recovered()
			}
			b.eventually("new spares", func() error {
				now := b.processes()
				if len(now) != 2 || slices.Contains(now, old[0]) || slices.Contains(now, old[1]) {
					return fmt.Errorf("%v, were %v", now, old)
				}
				return nil
			})
			b.ready("shop", 2)
			b.nothingLeft()
		})
	}
}

func TestASeedFromAnotherMachineIsStale(t *testing.T) {
	for part := range testHost {
		t.Run(part, func(t *testing.T) {
			b := newBed(t)
			b.recovered()
			key := keyOf(t, spec())
			s := b.seed("ns", "shop", key)
			b.close()
			p := b.prepare()
			p.host = map[string]string{PartKernel: "k", PartCPU: "c", PartCRIU: "r", PartSprout: "s"}
			p.host[part] = "other"
			if err := p.open(t.Context()); err != nil {
				t.Fatal(err)
			}
			b.pool = p
			<-p.Recovered()
			found := p.lookup("ns", "sha256:image", keyOf(t, spec()))
			if found.Seed != nil || found.Reason != string(ReasonSeedStale) || !strings.Contains(found.Detail, part) {
				t.Errorf("lookup %v", found)
			}
			_, err := p.restoreFor(t.Context(), s.id, b.container("ns", "c1"), place{cgroup: "/x"})
			if reason, _ := ReasonOf(err); reason != ReasonSeedStale {
				t.Errorf("restore: %v", err)
			}
			if one, _ := p.find("ns", "shop"); p.setPool(t.Context(), one, spareBounds{1, 1}) == nil {
				t.Error("a stale seed got a pool")
			}
		})
	}
}

func TestARestartDoesNotForgetThatASeedIsBad(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	if err := p.markBad(t.Context(), s, "pages-1.img: checksum differs"); err != nil {
		t.Fatal(err)
	}
	b.close()
	found := b.recovered().lookup("ns", "sha256:image", keyOf(t, spec()))
	if found.Seed != nil || found.Reason != string(ReasonSeedBad) || !strings.Contains(found.Detail, "pages-1.img") {
		t.Errorf("lookup %v", found)
	}
}
