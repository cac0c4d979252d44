package snapshotter

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	bolt "go.etcd.io/bbolt"
)

// house is containerd's metadata over our snapshotter: it names the rows and collects them.
type house struct {
	*bed
	db *metadata.DB
	sn snapshots.Snapshotter
}

var root = snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "2026-01-01T00:00:00Z"})

func newHouse(t *testing.T) *house {
	t.Helper()
	b := newBed(t)
	b.ctx = namespaces.WithNamespace(b.ctx, "default")
	store, err := local.NewStore(t.TempDir())
	must(t, err)
	file, err := bolt.Open(filepath.Join(t.TempDir(), "meta.db"), 0o600, nil)
	must(t, err)
	t.Cleanup(func() { must(t, file.Close()) })
	db := metadata.NewDB(file, store, map[string]snapshots.Snapshotter{"sprout": b})
	must(t, db.Init(b.ctx))
	return &house{bed: b, db: db, sn: db.Snapshotter("sprout")}
}

// pull unpacks an image of one layer; only the layer's name keeps it.
func (h *house) pull(chainID string) {
	h.t.Helper()
	layer, err := h.sn.Prepare(h.ctx, "extract", "", root)
	must(h.t, err)
	dir := h.mount(layer)
	h.write(filepath.Join(dir, "app"), "image")
	h.unmount(dir)
	must(h.t, h.sn.Commit(h.ctx, chainID, "extract", root))
}

func (h *house) collect() {
	h.t.Helper()
	_, err := h.db.GarbageCollect(h.ctx)
	must(h.t, err)
}

// dirty removes a snapshot, so that the next collection looks at the snapshotter.
func (h *house) dirty() {
	h.t.Helper()
	_, err := h.sn.Prepare(h.ctx, "dirty", "", root)
	must(h.t, err)
	must(h.t, h.sn.Remove(h.ctx, "dirty"))
}

func TestContainerdsCollectorLeavesSeedsAndSparesAlone(t *testing.T) {
	h := newHouse(t)
	h.pull(chain("app"))
	_, err := h.PrepareBake(h.ctx, "s1", chain("app"))
	must(t, err)
	must(t, h.CommitSeed(h.ctx, "s1"))
	_, err = h.PrepareBake(h.ctx, "s2", chain("app"))
	must(t, err)
	dir := h.spare("s1", "i1")
	want(t, "rows", len(h.rows()), 4)

	h.dirty()
	h.collect()

	want(t, "rows after the collection", len(h.rows()), 4)
	want(t, "spare", tree(t, dir), "app=image")
	h.noLeftovers()
}

func TestAnImageBelowASeedStaysUntilTheSeedIsGone(t *testing.T) {
	h := newHouse(t)
	var blocked []string
	h.OnBlocked(func(chainID string) { blocked = append(blocked, chainID) })
	h.pull(chain("app"))
	_, err := h.PrepareBake(h.ctx, "s1", chain("app"))
	must(t, err)
	must(t, h.CommitSeed(h.ctx, "s1"))
	m, err := h.sn.Prepare(h.ctx, "c1", chain("app"), root)
	must(t, err)
	dir := h.spare("s1", "i1")
	must(t, h.Adopt(h.ctx, "i1", upperOf(m[0].Options)))
	h.write(filepath.Join(dir, "mine"), "c1")

	// The image is removed while the container runs: containerd itself keeps the layer.
	h.dirty()
	h.collect()
	want(t, "running container", tree(t, dir), "app=image mine=c1")
	want(t, "blocked while a container of the image runs", len(blocked), 0)

	// Container and image are removed: only the seed keeps the layer.
	h.unmount(dir)
	must(t, h.sn.Remove(h.ctx, "c1"))
	must(t, h.sn.Remove(h.ctx, chain("app")))
	h.collect()
	want(t, "blocked", strings.Join(blocked, " "), chain("app"))
	want(t, "seed's row", slices.Contains(h.rows(), seedKey("s1")), true)
	want(t, "rows", len(h.rows()), 2)

	// The image comes again: its new layer has the same chain id, and the seed fits.
	h.pull(chain("app"))
	m, err = h.sn.Prepare(h.ctx, "c2", chain("app"), root)
	must(t, err)
	_, err = h.PrepareSpare(h.ctx, "s1", "i2")
	must(t, err)
	must(t, h.Adopt(h.ctx, "i2", upperOf(m[0].Options)))

	// Seed and container go. The first collection may meet the old layer before the container, the second finds it free.
	must(t, h.sn.Remove(h.ctx, "c2"))
	must(t, h.RemoveSeed(h.ctx, "s1"))
	h.collect()
	h.dirty()
	h.collect()
	want(t, "rows at the end", len(h.rows()), 1)
	h.noLeftovers()
}

func TestLabelsThatContainerdSetsDoNotTakeTheSeedAway(t *testing.T) {
	h := newHouse(t)
	h.pull(chain("app"))
	_, err := h.PrepareBake(h.ctx, "s1", chain("app"))
	must(t, err)
	must(t, h.CommitSeed(h.ctx, "s1"))
	m, err := h.sn.Prepare(h.ctx, "c1", chain("app"), root)
	must(t, err)
	_, err = h.Over(h.ctx, "s1", upperOf(m[0].Options))
	must(t, err)

	info := snapshots.Info{Name: "c1", Labels: map[string]string{"containerd.io/snapshot/x": "y", LabelSeed: "other"}}
	for _, fields := range [][]string{nil, {"labels"}, {"labels." + LabelSeed}} {
		_, err := h.sn.Update(h.ctx, info, fields...)
		must(t, err)
		seen := map[string]string{}
		must(t, h.Walk(h.ctx, func(_ context.Context, info snapshots.Info) error {
			if info.Labels[LabelSeed] != "" {
				seen[info.Name] = info.Labels[LabelSeed]
			}
			return nil
		}))
		want(t, "labelled snapshots", len(seen), 1)
		for _, seed := range seen {
			want(t, "seed", seed, "s1")
		}
	}
}
