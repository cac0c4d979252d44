package seedpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// bed is a pool on real directories, databases, cgroups and processes. What the tests put in place of others' parts: the snapshotter (dirRootfs) and CRIU (the
// keeper process of keeper_test.go, whose instances are frozen `sleep`s).
type bed struct {
	t      testing.TB
	config Config
	rootfs *dirRootfs
	pool   *Pool
}

// testHost stands for the machine's part of keys, so that no CRIU is needed.
var testHost = map[string]string{PartKernel: "k", PartCPU: "c", PartCRIU: "r", PartSprout: "s"}

func newBed(t testing.TB) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.RunDir, c.StateDir, c.CgroupRoot = filepath.Join(dir, "run"), filepath.Join(dir, "lib"), "/"+filepath.Base(dir)
	c.BindTimeout = Duration(time.Second)
	b := &bed{t: t, config: c, rootfs: &dirRootfs{root: filepath.Join(dir, "snapshots")}}
	t.Cleanup(func() {
		b.close()
		b.endKeepers()
		if err := removeCgroup(context.Background(), linux.Cgroup{Path: c.CgroupRoot}); err != nil {
			t.Error(err)
		}
		if t.Failed() {
			t.Logf("kept %s", dir)
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return b
}

// open opens the pool as sproutd does when it starts.
func (b *bed) open() *Pool {
	b.t.Helper()
	p := b.prepare()
	if err := p.open(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	b.pool = p
	return p
}

func (b *bed) prepare() *Pool { return testPool(b.config, b.rootfs) }

// testPool is a pool with the test's keepers and host.
func testPool(c Config, rootfs Rootfs) *Pool {
	p := newPool(c, rootfs)
	p.host = testHost
	p.keepers.spawn = func(ctx context.Context, seed string, _ *api.Boot) error {
		return spawnTestKeeper(ctx, p.paths.KeeperSocket(seed), seed)
	}
	return p
}

func (b *bed) recovered() *Pool {
	b.t.Helper()
	p := b.open()
	<-p.Recovered()
	return p
}

func (b *bed) close() {
	if b.pool == nil {
		return
	}
	if err := b.pool.Close(); err != nil {
		b.t.Error(err)
	}
	b.pool = nil
}

// seed puts a seed into the store as a bake does.
func (b *bed) seed(namespace, name string, key *api.Key) *seed {
	b.t.Helper()
	s, err := addSeed(b.pool, b.rootfs, namespace, name, key)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// addSeed does what a bake does, with images that are enough for restore.Check.
func addSeed(p *Pool, rootfs *dirRootfs, namespace, name string, key *api.Key) (*seed, error) {
	s := p.newSeed(&api.SeedMeta{
		Info:    &api.SeedInfo{Id: newID(), Namespace: namespace, Name: name, Mode: ModeClone, Phase: SeedReady, Key: key, LateEnv: []string{"LATE"}},
		ChainId: "sha256:image", StdioKeys: []string{"", "pipe:[1]", "pipe:[2]"},
	})
	for part, value := range testHost {
		key.Parts[part] = value
	}
	key.Parts[PartImage] = "sha256:image"
	if err := rootfs.addSeed(s.id); err != nil {
		return nil, err
	}
	p.point("seed dumped")
	if err := writeImages(p.paths.ImagesDir(s.id)); err != nil {
		return nil, err
	}
	if err := s.dir.seal(s.meta, spec()); err != nil {
		return nil, err
	}
	p.point("seed tried")
	return s, p.count(context.Background(), s, nil)
}

// fill sets the pool of a seed and waits until it is full.
func (b *bed) fill(s *seed, spares uint32) {
	b.t.Helper()
	if err := b.pool.setPool(context.Background(), s, spareBounds{min: spares, max: spares}); err != nil {
		b.t.Fatal(err)
	}
	b.ready(s.meta.Info.Name, spares)
}

// ready waits until the pool of a seed has so many spares and makes none.
func (b *bed) ready(name string, spares uint32) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("%d spares of %s", spares, name), func() error {
		b.pool.mu.Lock()
		defer b.pool.mu.Unlock()
		for _, s := range b.pool.seeds {
			if s.meta.Info.Name != name {
				continue
			}
			if len(s.ready) != int(spares) || s.making != 0 {
				return fmt.Errorf("%d ready, %d being made, last error %q", len(s.ready), s.making, s.lastError)
			}
			return nil
		}
		return errors.New("no such seed")
	})
}

// eventually asks until there is no error. What is waited for has no signal that a test could hear: it is another process's work, or the kernel's.
func (b *bed) eventually(what string, check func() error) {
	b.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("wait for %s: %v", what, err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// container makes a container's snapshot and gives the one who claims for it.
func (b *bed) container(namespace, id string) claimant {
	b.t.Helper()
	upper, err := b.rootfs.addContainer(id)
	if err != nil {
		b.t.Fatal(err)
	}
	return claimant{namespace, id, upper, uint32(os.Getpid())}
}

// place makes a container's cgroup, as its shim does, for an instance to be restored in.
func (b *bed) place(id string) place {
	b.t.Helper()
	group := linux.Cgroup{Path: b.config.CgroupRoot + "/containers/" + id}
	if err := group.Create(); err != nil {
		b.t.Fatal(err)
	}
	return place{cgroup: group.Path}
}

// leftovers lists what exists of instances and has no row, and rows whose instance lacks something.
func (b *bed) leftovers() []string {
	b.t.Helper()
	p := b.pool
	p.mu.Lock()
	rows := map[string]phase{}
	for id, i := range p.instances {
		rows[id] = i.phase()
	}
	p.mu.Unlock()
	var found []string
	note := func(what string, names []string) {
		for _, name := range names {
			if _, ok := rows[name]; !ok {
				found = append(found, what+" "+name)
			}
		}
	}
	note("directory", names(b.t, p.paths.InstancesDir()))
	root, err := linux.UnifiedRoot()
	if err != nil {
		b.t.Fatal(err)
	}
	note("cgroup", dirNames(b.t, filepath.Join(root, b.config.CgroupRoot, "spares")))
	_, spares, err := b.rootfs.List(b.t.Context())
	if err != nil {
		b.t.Fatal(err)
	}
	note("snapshot", spares)
	for id, phase := range rows {
		if phase != phaseReady && phase != phaseBound && phase != phaseClaimed {
			found = append(found, "row "+id+" in phase "+string(phase))
		}
	}
	slices.Sort(found)
	return found
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	var list []string
	for _, entry := range entries {
		list = append(list, entry.Name())
	}
	return list
}

func dirNames(t testing.TB, dir string) []string {
	t.Helper()
	return slices.DeleteFunc(names(t, dir), func(name string) bool {
		info, err := os.Stat(filepath.Join(dir, name))
		return err != nil || !info.IsDir()
	})
}

// dirRootfs is a snapshotter of plain directories, so that a sproutd that was killed and its successor see the same one.
//
//	seeds/<id>  bakes/<id>  spares/<id>/upper  containers/<id>/{upper,seed}
type dirRootfs struct {
	root string

	mu   sync.Mutex
	fail map[string]error // by method: what it answers instead
	log  []string         // calls that touch a container's snapshot
}

func (r *dirRootfs) dir(parts ...string) string {
	return filepath.Join(append([]string{r.root}, parts...)...)
}

func (r *dirRootfs) called(method, upperdir string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.log = append(r.log, method)
	_ = upperdir
	return r.fail[method]
}

func (r *dirRootfs) setFail(method string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fail == nil {
		r.fail = make(map[string]error)
	}
	r.fail[method] = err
}

func (r *dirRootfs) calls() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.log)
}

func (r *dirRootfs) addSeed(id string) error { return os.MkdirAll(r.dir("seeds", id), 0o700) }

func (r *dirRootfs) addContainer(id string) (upper string, err error) {
	upper = r.dir("containers", id, "upper")
	return upper, os.MkdirAll(upper, 0o700)
}

// seedOf is the seed that lies under a container's snapshot.
func (r *dirRootfs) seedOf(upperdir string) string {
	data, _ := os.ReadFile(filepath.Join(filepath.Dir(upperdir), "seed"))
	return string(data)
}

func (r *dirRootfs) Chain(_ context.Context, upperdir string) (string, bool, error) {
	entries, err := os.ReadDir(upperdir)
	if err != nil {
		return "", false, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return "sha256:image", len(entries) == 0, nil
}

func (r *dirRootfs) Container(namespace, id string) (string, string) {
	upperdir := r.dir("containers", id, "upper")
	if _, err := os.Stat(upperdir); err != nil || namespace != "ns" {
		return "", ""
	}
	return upperdir, "sha256:image"
}

func (r *dirRootfs) PrepareBake(_ context.Context, seed, _ string) ([]string, error) {
	if err := r.called("PrepareBake", ""); err != nil {
		return nil, err
	}
	return nil, os.MkdirAll(r.dir("bakes", seed), 0o700)
}

func (r *dirRootfs) CommitSeed(_ context.Context, seed string) error {
	return errors.Join(os.MkdirAll(r.dir("seeds"), 0o700), os.Rename(r.dir("bakes", seed), r.dir("seeds", seed)))
}

func (r *dirRootfs) AbortBake(_ context.Context, seed string) error {
	return os.RemoveAll(r.dir("bakes", seed))
}

func (r *dirRootfs) RemoveSeed(_ context.Context, seed string) error {
	return os.RemoveAll(r.dir("seeds", seed))
}

func (r *dirRootfs) PrepareSpare(_ context.Context, seed, instance string) ([]string, error) {
	if _, err := os.Stat(r.dir("seeds", seed)); err != nil {
		return nil, fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	upper := r.dir("spares", instance, "upper")
	return []string{"upperdir=" + upper}, os.MkdirAll(upper, 0o700)
}

func (r *dirRootfs) RemoveSpare(_ context.Context, instance string) error {
	return os.RemoveAll(r.dir("spares", instance))
}

func (r *dirRootfs) Adopt(_ context.Context, instance, upperdir string) error {
	if err := r.called("Adopt", upperdir); err != nil {
		return err
	}
	if _, pristine, err := r.Chain(context.Background(), upperdir); err != nil || !pristine {
		return errors.Join(err, fmt.Errorf("not empty: %w", errdefs.ErrFailedPrecondition))
	}
	spare := r.dir("spares", instance)
	seed := "adopted " + instance
	return errors.Join(os.WriteFile(filepath.Join(filepath.Dir(upperdir), "seed"), []byte(seed), 0o600),
		linux.Replace(filepath.Join(spare, "upper"), upperdir), os.RemoveAll(spare))
}

func (r *dirRootfs) Mounted(_ context.Context, upperdir string) ([]string, error) {
	return nil, fail(errdefs.ErrNotFound, "no mount of %s", upperdir)
}

func (r *dirRootfs) Over(_ context.Context, seed, upperdir string) ([]string, error) {
	if err := r.called("Over", upperdir); err != nil {
		return nil, err
	}
	return []string{"upperdir=" + upperdir}, os.WriteFile(filepath.Join(filepath.Dir(upperdir), "seed"), []byte(seed), 0o600)
}

func (r *dirRootfs) Renew(_ context.Context, upperdir string) error {
	if err := r.called("Renew", upperdir); err != nil {
		return err
	}
	if _, err := os.Stat(upperdir); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrNotFound)
	}
	return errors.Join(os.RemoveAll(filepath.Join(filepath.Dir(upperdir), "seed")), os.RemoveAll(upperdir), os.Mkdir(upperdir, 0o700))
}

func (r *dirRootfs) Plain(_ context.Context, upperdir string) error {
	if err := r.called("Plain", upperdir); err != nil {
		return err
	}
	return os.RemoveAll(filepath.Join(filepath.Dir(upperdir), "seed"))
}

func (r *dirRootfs) List(context.Context) (seeds, spares []string, err error) {
	read := func(dir string) []string {
		entries, readErr := os.ReadDir(dir)
		if readErr != nil && !errors.Is(readErr, fs.ErrNotExist) {
			err = errors.Join(err, readErr)
		}
		var list []string
		for _, entry := range entries {
			list = append(list, entry.Name())
		}
		return list
	}
	return read(r.dir("seeds")), read(r.dir("spares")), err
}

// sproutdProcess is a pool in a process of its own, which may be told to kill itself: see crash_test.go.
func sproutdProcess(args string) error {
	var o sproutdOptions
	if err := json.Unmarshal([]byte(args), &o); err != nil {
		return err
	}
	ctx, stop := untilTerm()
	defer stop()
	return o.run(ctx)
}

// self is a command that runs the test binary as another process.
func self(role string, args any) (*exec.Cmd, error) {
	data, err := json.Marshal(args)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), processEnv+"="+role+" "+string(data))
	cmd.Stderr = os.Stderr
	return cmd, nil
}

func errorSays(err error, text string) bool { return err != nil && strings.Contains(err.Error(), text) }
