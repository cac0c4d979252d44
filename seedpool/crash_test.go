package seedpool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/thaw"
)

// sproutdOptions tell a sproutd process of the tests what to do: work on one pool until it kills itself.
type sproutdOptions struct {
	Config Config
	Rootfs string
	// KillAt is the point, Nth how often it is passed before.
	KillAt string
	Nth    int64
	// Bakes says after how many rounds of work the first seed is baked.
	Bakes int
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
	for n := 3 - o.Bakes; ctx.Err() == nil; n++ {
		// No start is left alone here: the pool is filled while others are under way.
		p.starts.rest()
		p.stir()
		if err := o.work(ctx, p, rootfs, n); err != nil {
			return err
		}
	}
	return p.Close()
}

// work starts four containers, each in another way, looks after what is left of others, and now and then bakes the seed again.
func (o sproutdOptions) work(ctx context.Context, p *Pool, rootfs *dirRootfs, n int) error {
	s, err := p.find("ns", "shop")
	if err != nil {
		return err
	}
	for _, start := range []func(context.Context, *Pool, *seed, claimant) error{o.bind, o.discard, o.discard, o.restore} {
		id := newID()
		upper, err := rootfs.addContainer(id)
		if err != nil {
			return err
		}
		p.starts.rest()
		if err := start(ctx, p, s, claimant{"ns", id, upper, uint32(os.Getpid())}); err != nil {
			return err
		}
	}
	if err := p.orderInstances(ctx, time.Now()); err != nil {
		return err
	}
	if n%4 != 3 {
		return nil
	}
	if _, err := addSeed(p, rootfs, "ns", "shop", s.meta.Info.Key); err != nil {
		return err
	}
	gone, err := addSeed(p, rootfs, "ns", "gone", s.meta.Info.Key)
	if err != nil {
		return err
	}
	return p.removeSeed(ctx, gone)
}

// bind claims a spare, lets it run in the container's cgroup as a shim does, and ends it.
func (o sproutdOptions) bind(ctx context.Context, p *Pool, s *seed, who claimant) error {
	inst, err := p.claim(ctx, s.id, who, true)
	if err != nil {
		return spareless(err)
	}
	group := linux.Cgroup{Path: o.Config.CgroupRoot + "/containers/" + who.container}
	if err := errors.Join(group.Create(), group.SetFrozen(true), group.Attach(int(inst.Pid))); err != nil {
		return err
	}
	sv := &service{pool: p}
	if _, err := sv.Bound(ctx, &api.BoundRequest{Instance: inst.Id}); err != nil {
		return err
	}
	return errors.Join(thaw.Release(group), removeCgroup(ctx, group), os.RemoveAll(p.paths.InstanceDir(inst.Id)))
}

// discard claims a spare and gives it back.
func (o sproutdOptions) discard(ctx context.Context, p *Pool, s *seed, who claimant) error {
	inst, err := p.claim(ctx, s.id, who, false)
	if err != nil {
		return spareless(err)
	}
	_, err = (&service{pool: p}).Discard(ctx, discardOf(inst.Id))
	return err
}

// restore has an instance made for the container, and gives it back.
func (o sproutdOptions) restore(ctx context.Context, p *Pool, s *seed, who claimant) error {
	group := linux.Cgroup{Path: o.Config.CgroupRoot + "/containers/" + who.container}
	if err := group.Create(); err != nil {
		return err
	}
	made, err := p.restoreFor(ctx, s.id, who, place{cgroup: group.Path})
	if errorSays(err, "start keeper of seed") {
		// The one that the last sproutd had begun to start holds the lock and does not serve yet: this container starts cold.
		return removeCgroup(ctx, group)
	}
	if err != nil {
		return err
	}
	_, err = (&service{pool: p}).Discard(ctx, discardOf(made.Instance.Id))
	return errors.Join(err, removeCgroup(ctx, group))
}

// spareless is no error when all that was wrong is that no spare was ready.
func spareless(err error) error {
	if reason, _ := ReasonOf(err); reason == ReasonNoSpare || reason == ReasonSpareDied {
		return nil
	}
	return err
}

// points are the places at which the pool can be cut while it works, and recoveryPoints those that a sproutd passes once, when it starts.
var (
	points = []string{
		"instance begun", "instance made", "spare ready", "spare claimed", "spare adopted", "snapshot over seed", "instance bound", "instance dying", "instance removed",
		"order instances", "seed dumped", "seed tried", "seed counts", "seed row deleted",
	}
	recoveryPoints = []string{
		"end cut bakes", "find keepers", "remove templates", "recover instances", "remove cgroups", "remove instance directories", "remove seed directories", "remove snapshots",
		"remove pages",
	}
)

// rest ends what there was of starts.
func (c *calm) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.since = time.Time{}
}

func TestKill9AtAnyPointLosesNothingAndLeavesNothing(t *testing.T) {
	for _, point := range slices.Concat(points, recoveryPoints) {
		t.Run(point, func(t *testing.T) {
			b := newBed(t)
			b.recovered()
			s := b.seed("ns", "shop", keyOf(t, spec()))
			b.fill(s, 2)
			b.close()
			b.crash(sproutdOptions{KillAt: point})
			b.recovered()
			b.whole()
			b.close()
		})
	}
}

// What the test of random kills is told by the environment: how many, and the number that they follow from, to have the same ones again.
const (
	killsEnv = "SPROUT_KILLS"
	seedEnv  = "SPROUT_KILLS_SEED"
)

// TestRandomKillsLoseNothingAndLeaveNothing kills one sproutd after the other, each at a random point while it is at what the last one has left: nothing tidies up in between.
func TestRandomKillsLoseNothingAndLeaveNothing(t *testing.T) {
	kills, number := numberFromEnv(t, killsEnv, 25), numberFromEnv(t, seedEnv, time.Now().UnixNano())
	t.Logf("to have the same again: %s=%d %s=%d", killsEnv, kills, seedEnv, number)
	random := rand.New(rand.NewPCG(uint64(number), 0))
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	b.close()
	for n := range kills {
		point, nth := recoveryPoints[random.IntN(len(recoveryPoints))], int64(0)
		if random.IntN(4) > 0 {
			point, nth = points[random.IntN(len(points))], random.Int64N(3)
		}
		b.crash(sproutdOptions{KillAt: point, Nth: nth, Bakes: random.IntN(4)})
		if n%50 == 49 || n == kills-1 {
			b.recovered()
			b.onlySpares(2)
			b.whole()
			b.close()
		}
	}
}

func numberFromEnv(t *testing.T, name string, other int64) int64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return other
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// onlySpares ends the containers whose shims have died, which is containerd's part, and makes sure that nothing is left but the spares.
func (b *bed) onlySpares(want int) {
	b.t.Helper()
	if err := removeCgroup(b.t.Context(), linux.Cgroup{Path: b.config.CgroupRoot + "/containers"}); err != nil {
		b.t.Fatal(err)
	}
	b.eventually("only spares to be left", func() error {
		if err := b.pool.orderInstances(b.t.Context(), time.Now().Add(time.Minute)); err != nil {
			return err
		}
		b.pool.mu.Lock()
		rows := len(b.pool.instances)
		b.pool.mu.Unlock()
		if have := len(b.processes()); rows != want || have != want {
			return fmt.Errorf("%d rows and %d processes", rows, have)
		}
		return nil
	})
}

// TestKill9AtAnyMoment cuts where no point is.
func TestKill9AtAnyMoment(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	b.close()
	for n := range 6 {
		cmd := b.sproutd(sproutdOptions{KillAt: "never", Bakes: 3})
		time.Sleep(time.Duration(10+n*93) * time.Millisecond) // the moment itself is what is tested
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait()
		b.recovered()
		b.whole()
		b.close()
	}
}

func (b *bed) sproutd(o sproutdOptions) *exec.Cmd {
	b.t.Helper()
	o.Config, o.Rootfs = b.config, b.rootfs.root
	cmd, err := self("sproutd", o)
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return cmd
}

// crash runs a sproutd until it has killed itself.
func (b *bed) crash(o sproutdOptions) {
	b.t.Helper()
	cmd := b.sproutd(o)
	timer := time.AfterFunc(60*time.Second, func() { _ = cmd.Process.Signal(syscall.SIGTERM) })
	defer timer.Stop()
	err := cmd.Wait()
	exit, ok := errors.AsType[*exec.ExitError](err)
	if !ok || !exit.Sys().(syscall.WaitStatus).Signaled() {
		b.t.Fatalf("sproutd did not reach %q: %v", o.KillAt, err)
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
			if one, _ := p.find("ns", "shop"); p.setPool(t.Context(), one, spareBounds{min: 1, max: 1}) == nil {
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
