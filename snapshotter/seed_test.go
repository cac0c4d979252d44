package snapshotter

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
)

func ownerOf(info os.FileInfo) [2]uint32 {
	st := info.Sys().(*syscall.Stat_t)
	return [2]uint32{st.Uid, st.Gid}
}

func TestASeedsLayerKeepsWhatTheBakeRemoved(t *testing.T) {
	b := newBed(t)
	_, chainID := b.demo("default")
	b.seed("s1", chainID)
	want(t, "spare", tree(t, b.spare("s1", "i1")), seedTree)

	info, err := b.overlay.Stat(b.ctx, seedKey("s1"))
	must(t, err)
	want(t, "kind", info.Kind, snapshots.KindCommitted)
	usage, err := b.overlay.Usage(b.ctx, seedKey("s1"))
	must(t, err)
	want(t, "files counted", usage.Inodes, 7) // /, app, app/conf, cache, dir, dir/new, and the whiteout of gone
}

func TestASeedsLayerMayHoldLinksPipesAndSockets(t *testing.T) {
	b := newBed(t)
	_, chainID := b.demo("default")
	options, err := b.PrepareBake(b.ctx, "s1", chainID)
	must(t, err)
	dir := b.overlayAt(options)
	must(t, os.Symlink("/proc/self/mem", filepath.Join(dir, "link")))
	must(t, syscall.Mkfifo(filepath.Join(dir, "pipe"), 0o600))
	must(t, syscall.Mknod(filepath.Join(dir, "socket"), syscall.S_IFSOCK|0o600, 0))
	must(t, os.WriteFile(filepath.Join(dir, "secret"), nil, 0o000))
	b.unmount(dir)
	must(t, b.CommitSeed(b.ctx, "s1"))
	spare := b.spare("s1", "i1")
	for name, kind := range map[string]os.FileMode{"link": os.ModeSymlink, "pipe": os.ModeNamedPipe, "socket": os.ModeSocket, "secret": 0} {
		info, err := os.Lstat(filepath.Join(spare, name))
		must(t, err)
		want(t, name, info.Mode().Type(), kind)
	}
}

func TestAnAbortedBakeLeavesNothing(t *testing.T) {
	b := newBed(t)
	_, chainID := b.demo("default")
	_, err := b.PrepareBake(b.ctx, "s1", chainID)
	must(t, err)
	must(t, b.AbortBake(b.ctx, "s1"))
	must(t, b.AbortBake(b.ctx, "s1"))
	b.noLeftovers()
	want(t, "rows", len(b.rows()), 2)
}

func TestABakeNeedsAnImageAndAFreeName(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.image("default/3/by-name", image, nil)
	for name, bad := range map[string]string{"empty": "", "not a digest": "by-name"} {
		if _, err := b.PrepareBake(b.ctx, "s1", bad); !errdefs.IsInvalidArgument(err) {
			t.Errorf("chain id %s: got %v", name, err)
		}
	}
	if _, err := b.PrepareBake(b.ctx, "s1", chain("unknown")); !errdefs.IsNotFound(err) {
		t.Errorf("unknown chain: got %v", err)
	}
	if _, err := b.PrepareBake(b.ctx, "a/b", chainID); !errdefs.IsInvalidArgument(err) {
		t.Errorf("slash in the id: got %v", err)
	}
	b.seed("s1", chainID)
	if _, err := b.PrepareBake(b.ctx, "s1", chainID); !errdefs.IsAlreadyExists(err) {
		t.Errorf("seed exists: got %v", err)
	}
}

func TestABakeStandsOnTheImageOfItsNamespace(t *testing.T) {
	b := newBed(t)
	_, chainID := b.demo("one")
	b.demo("two")
	for _, namespace := range []string{"one", "two"} {
		_, err := b.PrepareBake(namespaces.WithNamespace(b.ctx, namespace), "s-"+namespace, chainID)
		must(t, err)
		info, err := b.overlay.Stat(b.ctx, bakeKey("s-"+namespace))
		must(t, err)
		want(t, "parent", info.Parent, namespace+"/2/"+chainID)
	}
	if _, err := b.PrepareBake(namespaces.WithNamespace(b.ctx, "three"), "s3", chainID); !errdefs.IsNotFound(err) {
		t.Errorf("a namespace without the image: got %v", err)
	}
}

func TestARemovedSeedIsGoneAtOnceWhenNothingStandsOnIt(t *testing.T) {
	b := newBed(t)
	_, chainID := b.demo("default")
	b.seed("s1", chainID)
	must(t, b.RemoveSeed(b.ctx, "s1"))
	must(t, b.RemoveSeed(b.ctx, "s1"))
	want(t, "rows", len(b.rows()), 2)
	b.noLeftovers()
}

func TestARemovedSeedStaysUntilItsLastUserIsGone(t *testing.T) {
	b, upper, dir := adopted(t)
	b.unmount(dir)
	must(t, b.Commit(b.ctx, "default/20/image-of-c1", "default/9/c1"))
	_, err := b.PrepareSpare(b.ctx, "s1", "i2")
	must(t, err)
	must(t, b.RemoveSeed(b.ctx, "s1"))

	seeds, _, err := b.List(b.ctx)
	must(t, err)
	want(t, "listed seeds", len(seeds), 0)
	if _, err := b.PrepareSpare(b.ctx, "s1", "i3"); !errdefs.IsNotFound(err) {
		t.Errorf("a spare of a retired seed: got %v", err)
	}
	b.reopen()
	view, err := b.View(b.ctx, "default/21/view", "default/20/image-of-c1")
	must(t, err)
	want(t, "what was committed", tree(t, b.mount(view)), "app/conf=s1 app/main=image before=adopt cache=s1 dir/new=s1 etc/passwd=root")

	must(t, b.RemoveSpare(b.ctx, "i2"))
	want(t, "kept", slices.Contains(b.rows(), seedKey("s1")), true)
	must(t, b.Remove(b.ctx, "default/21/view"))
	must(t, b.Remove(b.ctx, "default/20/image-of-c1"))
	want(t, "kept after the last user", slices.Contains(b.rows(), seedKey("s1")), false)
	b.noLeftovers()
	_, _, err = b.Chain(b.ctx, upper)
	want(t, "not ours", errors.Is(err, ErrNotOurs), true)
}

func TestARetiredSeedGoesWithItsLastSpare(t *testing.T) {
	b := newBed(t)
	_, chainID := b.demo("default")
	b.seed("s1", chainID)
	_, err := b.PrepareSpare(b.ctx, "s1", "i1")
	must(t, err)
	must(t, b.RemoveSeed(b.ctx, "s1"))
	must(t, b.RemoveSpare(b.ctx, "i1"))
	must(t, b.RemoveSpare(b.ctx, "i1"))
	want(t, "rows", len(b.rows()), 2)
	b.noLeftovers()
}

func TestListGivesSeedsAndSpares(t *testing.T) {
	b := newBed(t)
	seeds, spares, err := b.List(b.ctx) // of an empty database
	must(t, err)
	want(t, "nothing", len(seeds)+len(spares), 0)
	_, chainID := b.demo("default")
	b.seed("s1", chainID)
	b.seed("s2", chainID)
	_, err = b.PrepareSpare(b.ctx, "s2", "i1")
	must(t, err)
	seeds, spares, err = b.List(b.ctx)
	must(t, err)
	want(t, "seeds", slices.Equal(seeds, []string{"s1", "s2"}), true)
	want(t, "spares", slices.Equal(spares, []string{"i1"}), true)
}
