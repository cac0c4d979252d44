package snapshotter

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

func TestContainerdSeesNothingOfOurs(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	_, err := b.PrepareBake(b.ctx, "s2", chainID)
	must(t, err)
	_, err = b.PrepareSpare(b.ctx, "s1", "i1")
	must(t, err)
	b.container("sprout/12/c1", image) // a namespace that is called as we are

	var walked []string
	must(t, b.Walk(b.ctx, func(_ context.Context, info snapshots.Info) error {
		walked = append(walked, info.Name)
		return nil
	}))
	want(t, "walked", strings.Join(walked, " "), "default/1/"+chain("base")+" "+image+" sprout/12/c1")

	for _, key := range []string{bakeKey("s2"), seedKey("s1"), spareKey("i1")} {
		_, stat := b.Stat(b.ctx, key)
		_, update := b.Update(b.ctx, snapshots.Info{Name: key})
		_, usage := b.Usage(b.ctx, key)
		_, mounts := b.Mounts(b.ctx, key)
		_, prepare := b.Prepare(b.ctx, "default/20/c", key)
		_, view := b.View(b.ctx, "default/21/c", key)
		_, made := b.Prepare(b.ctx, key+"x", image)
		calls := []error{stat, update, usage, mounts, prepare, view, made, b.Remove(b.ctx, key), b.Commit(b.ctx, "default/22/c", key), b.Commit(b.ctx, key+"x", "sprout/12/c1")}
		for i, err := range calls {
			if !errdefs.IsNotFound(err) {
				t.Errorf("%s, call %d: got %v", key, i, err)
			}
		}
	}
	want(t, "rows", len(b.rows()), 6)
}

func TestWalkFiltersAsContainerdAsks(t *testing.T) {
	b := newBed(t)
	must(t, b.Walk(b.ctx, func(context.Context, snapshots.Info) error { return errors.New("an empty database has rows") }))
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	_, err := b.Over(b.ctx, "s1", b.container("default/9/c1", image))
	must(t, err)
	for filter, names := range map[string][]string{
		"kind==active":                       {"default/9/c1"},
		"kind==committed":                    {"default/1/" + chain("base"), image},
		"parent==" + seedKey("s1"):           nil,
		`labels."` + LabelSeed + `"==s1`:     {"default/9/c1"},
		"parent==" + image + ",kind==active": {"default/9/c1"},
	} {
		var got []string
		must(t, b.Walk(b.ctx, func(_ context.Context, info snapshots.Info) error {
			got = append(got, info.Name)
			return nil
		}, filter))
		if !slices.Equal(got, names) {
			t.Errorf("%s: got %v, want %v", filter, got, names)
		}
	}
	stop := errdefs.ErrNotFound
	if err := b.Walk(b.ctx, func(context.Context, snapshots.Info) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("an error of the callback: got %v", err)
	}
}

func TestAClientCannotNameASeedItself(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	label := snapshots.WithLabels(map[string]string{LabelSeed: "s1", "mine": "too"})
	b.container("default/9/c1", image, label)
	want(t, "prepared", tree(t, b.mountKey("default/9/c1")), imageTree)
	_, err := b.Update(b.ctx, snapshots.Info{Name: "default/9/c1", Labels: map[string]string{LabelSeed: "s1"}}, "labels."+LabelSeed)
	must(t, err)
	want(t, "updated", tree(t, b.mountKey("default/9/c1")), imageTree)
	must(t, b.Commit(b.ctx, "default/10/i", "default/9/c1", label))
	view, err := b.View(b.ctx, "default/11/v", "default/10/i", label)
	must(t, err)
	want(t, "committed", tree(t, b.mount(view)), imageTree)
	info, err := b.Stat(b.ctx, "default/10/i")
	must(t, err)
	want(t, "seed", info.Labels[LabelSeed], "")
	want(t, "the client's own label", info.Labels["mine"], "too")
}

func TestACommittedContainerCarriesItsSeed(t *testing.T) {
	b, _, dir := adopted(t)
	live := tree(t, dir)
	b.unmount(dir)
	must(t, b.Commit(b.ctx, "default/20/"+chain("c1"), "default/9/c1"))

	b.container("default/21/c2", "default/20/"+chain("c1"))
	want(t, "a container of it", tree(t, b.mountKey("default/21/c2")), live)
	b.image("default/22/"+chain("more"), "default/20/"+chain("c1"), map[string]string{"more": "image"})
	b.container("default/23/c3", "default/22/"+chain("more"))
	want(t, "a container of an image on it", tree(t, b.mountKey("default/23/c3")), strings.Replace(live, "etc/passwd=root", "etc/passwd=root more=image", 1))
}

func TestALayerIsRebasedOnItsParentAtCommit(t *testing.T) { // containerd unpacks layers side by side and names the parent last
	b := newBed(t)
	base := b.image("default/1/"+chain("base"), "", map[string]string{"base": "image"})
	layer, err := b.Prepare(b.ctx, "default/2/extract", "")
	must(t, err)
	dir := b.mount(layer)
	b.write(dir+"/top", "image")
	b.unmount(dir)
	must(t, b.Commit(b.ctx, "default/3/"+chain("top"), "default/2/extract", snapshots.WithParent(base)))
	b.container("default/4/c1", "default/3/"+chain("top"))
	want(t, "container", tree(t, b.mountKey("default/4/c1")), "base=image top=image")
}
