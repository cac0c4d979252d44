package seedpool

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// criuTimeout is how long CRIU may take to say its version: containers wait for us.
const criuTimeout = 2 * time.Second

// Pool holds the seeds of one node and the instances made from them. All methods may be called at the same time.
type Pool struct {
	config Config
	paths  Paths
	rootfs Rootfs
	pages  Pages
	// imageStore is nil if images are not followed.
	imageStore Images
	boot       string
	criu       restore.CRIU
	store      *store
	keepers    *keepers
	metrics    *metrics
	events     events
	// host is what seeds baked here depend on besides their container; nil: CRIU does not run, and every seed of images is stale.
	host map[string]string
	// point is called at the points at which a crash is tested.
	point func(name string)

	// life ends when the pool is closed; tasks are all goroutines that it started.
	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup
	// requests are those of starts: a daemon that ends finishes them first.
	requests sync.WaitGroup
	// wake tells the refiller that something has changed.
	wake chan struct{}
	// asked tells the keeper of templates that one is wanted.
	asked chan struct{}
	// starts are those for which spares have been asked.
	starts calm
	// turns bound the starts for which instances are made.
	turns turns
	// memory says when the machine needs what spares hold.
	memory memoryGuard
	// automatic are the seeds that cold starts have asked for.
	automatic automatic
	// merging is what ksmd is to do.
	merging merging
	// recovered is closed when what an earlier sproutd has left is in order.
	recovered chan struct{}

	// strays is held while the keeper of a seed that was removed is started.
	strays sync.Mutex

	// changes is held over a whole change of a seed's or a pool's row.
	changes sync.Mutex

	mu        sync.Mutex
	seeds     map[string]*seed         // +checklocks:mu: by id
	instances map[string]*instance     // +checklocks:mu: by id
	baking    map[string]bool          // +checklocks:mu: namespace and name
	young     map[string]bool          // +checklocks:mu: ids of seeds that are being baked
	busy      map[string]chan struct{} // +checklocks:mu: containers that a claim, a restore or a discard is at work for
}

// seed is one seed and its pool.
type seed struct {
	id        string
	namespace string
	dir       seedDir
	// paged: its memory is in the page store. booted: it has none, its spares are booted.
	paged, booted bool

	// load is held while the files are checked and the keeper is started.
	load sync.Mutex

	// All below is guarded by Pool.mu.

	// meta is replaced as a whole and never changed.
	meta      *api.SeedMeta
	retired   bool
	bounds    spareBounds
	demand    demand
	making    int
	ready     []*instance
	claimed   uint64
	evicted   uint64
	failed    uint64
	failures  int // in a row
	retryAt   time.Time
	lastError string
	keeperPID int64
	fork      forkState
	// used is when a container was last started from it; none: when it was made.
	used time.Time
	// kept is what the row says of used.
	kept time.Time
	// hot: its keeper has a copy of its memory that instances share.
	hot bool
	// served is when an instance was made of it last.
	served time.Time
}

// whole says whether images are in its directory, with their memory. What is in the page store is compared by a restore.
func (s *seed) whole() bool { return !s.paged && !s.booted }

// instance is one row of the index.
type instance struct {
	id   string
	seed string
	// inherited: an earlier sproutd made it.
	inherited bool
	// end is held while it is destroyed.
	end sync.Mutex
	// adoption is the hand-over of a claimed spare's files that this sproutd has begun; nil: none.
	adoption *adoption
	// row is replaced as a whole, under Pool.mu, and never changed.
	row *api.InstanceRow
}

func (i *instance) phase() phase { return phase(i.row.Phase) }

// Open reads the index, makes the directories and begins to recover: see the package comment. It waits for no disk but the index and for no process. The
// caller has seen to it that no other sproutd uses these directories.
func Open(ctx context.Context, c Config, rootfs Rootfs, pages Pages, images Images) (*Pool, error) {
	p := newPool(c, rootfs)
	p.pages, p.imageStore = pages, images
	p.keepers.spawn = p.spawnKeeper
	return p, p.open(ctx)
}

func newPool(c Config, rootfs Rootfs) *Pool {
	p := &Pool{
		config: c, paths: c.Paths(), rootfs: rootfs, criu: restore.CRIU{Path: lookPath(c.CRIU)}, point: func(string) {},
		wake: make(chan struct{}, 1), asked: make(chan struct{}, 1), turns: newTurns(c.Pool.WakesParallel), merging: merging{wake: make(chan struct{}, 1)}, automatic: newAutomatic(), recovered: make(chan struct{}),
		seeds: make(map[string]*seed), instances: make(map[string]*instance), baking: make(map[string]bool), young: make(map[string]bool), busy: make(map[string]chan struct{}),
	}
	p.keepers = &keepers{paths: p.paths, lost: p.keeperLost, open: make(map[string]*keeperConn)}
	p.metrics = newMetrics(p)
	return p
}

// lookPath finds a program now: keepers run in another directory. One that is not found keeps its name, for the error that names it.
func lookPath(program string) string {
	path, err := exec.LookPath(program)
	if err != nil {
		return program
	}
	if abs, err := filepath.Abs(path); err == nil {
		return abs
	}
	return path
}

func (p *Pool) open(ctx context.Context) error {
	for _, dir := range []string{p.paths.RunDir, p.paths.StateDir, p.paths.KeepersDir(), p.paths.InstancesDir(), p.paths.BakesDir(), p.paths.StartsDir(), p.paths.SeedsDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("open pool: %w", err)
		}
	}
	var err error
	if p.boot, err = bootID(); err != nil {
		return err
	}
	if p.store, err = openStore(p.paths, p.boot); err != nil {
		return err
	}
	if p.host == nil {
		ask, cancel := context.WithTimeout(ctx, criuTimeout)
		defer cancel()
		if p.host, err = hostKey(ask, p.criu); err != nil {
			log.G(ctx).WithError(err).Error("no seed of mode clone can be woken")
		}
	}
	if err := p.loadRows(); err != nil {
		return errors.Join(err, p.store.close())
	}
	p.life, p.end = context.WithCancel(context.WithoutCancel(ctx))
	p.tasks.Go(func() {
		p.recover(p.life)
		close(p.recovered)
		p.tasks.Go(func() { p.refill(p.life) })
		p.tasks.Go(func() { p.keepTemplates(p.life) })
		p.tasks.Go(func() { p.watchMemory(p.life) })
		p.tasks.Go(func() { p.mergeMemory(p.life) })
		p.tasks.Go(func() { p.keepSeeds(p.life) })
		p.tasks.Go(func() { p.collectRegularly(p.life) })
		p.keepOrder(p.life)
	})
	return nil
}

// loadRows fills the maps from the index.
func (p *Pool) loadRows() error {
	metas, bounds, err := p.store.seeds()
	if err != nil {
		return err
	}
	rows, err := p.store.instances()
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for id, m := range metas {
		if m.Info.Rebuild != nil {
			m.Info.Rebuild.Running = false // it was cut
		}
		if m.Info.Phase == SeedReady {
			m = p.judge(m)
		}
		s := p.newSeed(m)
		s.bounds = bounds[id]
		p.seeds[id] = s
	}
	for _, row := range rows {
		p.instances[row.Instance.Id] = &instance{id: row.Instance.Id, seed: row.Instance.Seed, row: row, inherited: true}
	}
	return nil
}

func (p *Pool) newSeed(m *api.SeedMeta) *seed {
	used := time.Unix(0, max(m.Info.CreatedUnixNanoseconds, m.Info.UsedUnixNanoseconds))
	return &seed{
		id: m.Info.Id, namespace: m.Info.Namespace, dir: p.paths.seedDir(m.Info.Id), paged: m.Paged, booted: isBooted(m.Info), meta: m, used: used, kept: used,
	}
}

// judge says of a ready seed whether this machine can wake it. That is not kept: it may be true again after the next boot.
func (p *Pool) judge(m *api.SeedMeta) *api.SeedMeta {
	why := staleAgainst(m, p.machine())
	if p.host == nil && !isBooted(m.Info) {
		why = "criu does not run"
	}
	if why == "" {
		return m
	}
	m = proto.CloneOf(m)
	m.Info.Phase, m.Info.Reason = SeedStale, why
	return m
}

// machine is the machine's part of keys.
func (p *Pool) machine() map[string]string {
	if p.host == nil {
		return ownKey()
	}
	return p.host
}

// Close stops refilling, waits for what is being done for containers, and leaves keepers and spares as they are for the next sproutd. The server must have
// ended before.
func (p *Pool) Close() error {
	p.end()
	p.requests.Wait()
	p.tasks.Wait()
	// Best effort: it is made again when it is needed, and what is still in it (spares, templates) is not ours to end.
	root := linux.Cgroup{Path: p.config.CgroupRoot}
	if pids, err := root.ProcsBelow(); err == nil && len(pids) == 0 {
		_ = root.Remove()
	}
	return errors.Join(p.keepers.close(), p.store.close())
}

// Recovered is closed when what an earlier sproutd has left is in order. No container start waits for it.
func (p *Pool) Recovered() <-chan struct{} { return p.recovered }

// settled waits for recovery: what changes seeds and pools must not cross it.
func (p *Pool) settled(ctx context.Context) error {
	select {
	case <-p.recovered:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-p.life.Done():
		return errClosing
	}
}

var errClosing = fail(errdefs.ErrUnavailable, "sproutd is ending")

// stir wakes the refiller.
func (p *Pool) stir() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}
