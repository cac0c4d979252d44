package snapshotter

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"
)

func TestChainSaysOnWhichImageAContainerStands(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	upper := b.container("default/9/c1", image)
	for name, path := range map[string]string{"as mounted": upper, "unclean": upper + "//"} {
		got, pristine, err := b.Chain(b.ctx, path)
		must(t, err)
		want(t, name+": chain", got, chainID)
		want(t, name+": pristine", pristine, true)
	}
	b.write(filepath.Join(upper, "mine"), "c1")
	_, pristine, err := b.Chain(b.ctx, upper)
	must(t, err)
	want(t, "pristine after a write", pristine, false)
}

func TestContainerFindsASnapshotByItsName(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	first := b.container("default/9/c1", image)
	find := func(what, namespace, id, upper, chain string) {
		t.Helper()
		gotUpper, gotChain := b.Container(namespace, id)
		want(t, what+": upper directory", gotUpper, upper)
		want(t, what+": chain", gotChain, chain)
	}
	find("container", "default", "c1", first, chainID)
	find("another namespace", "other", "c1", "", "")
	find("another name", "default", "c2", "", "")
	b.reopen()
	find("after a restart", "default", "c1", first, chainID)
	again := b.container("default/12/c1", image)
	find("the name used again", "default", "c1", again, chainID)
	must(t, b.Remove(b.ctx, "default/9/c1"))
	find("the old one collected", "default", "c1", again, chainID)
	must(t, b.Remove(b.ctx, "default/12/c1"))
	find("removed", "default", "c1", "", "")
	part := b.container("default/13/c1/part", image)
	find("a part of it", "default", "c1", "", "")
	find("a name with a slash", "default", "c1/part", part, chainID)
}

func TestChainIsEmptyWhenTheParentIsNotNamedByItsContent(t *testing.T) {
	b := newBed(t)
	image, _ := b.demo("default")
	named := b.image("default/3/my-sha256-of-nothing", image, nil)
	for _, parent := range []string{named, ""} {
		m, err := b.Prepare(b.ctx, "default/9/on"+parent, parent)
		must(t, err)
		upper := upperOf(m[0].Options)
		if parent == "" {
			upper = m[0].Source // a bind mount
		}
		got, _, err := b.Chain(b.ctx, upper)
		must(t, err)
		want(t, "chain", got, "")
	}
}

func TestChainKnowsNoUpperThatIsNotAContainers(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	spare, err := b.PrepareSpare(b.ctx, "s1", "i1")
	must(t, err)
	removed := b.container("default/9/c1", image)
	must(t, b.Remove(b.ctx, "default/9/c1"))
	committed := b.container("default/10/c2", image)
	must(t, b.Commit(b.ctx, "default/11/c2-image", "default/10/c2"))
	for name, upper := range map[string]string{"elsewhere": "/tmp", "spare": upperOf(spare), "removed": removed, "committed": committed} {
		if _, _, err := b.Chain(b.ctx, upper); !errors.Is(err, ErrNotOurs) || !errdefs.IsNotFound(err) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestOverPutsTheSeedBelowTheContainersOwnUpper(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	upper := b.container("default/9/c1", image)
	options, err := b.Over(b.ctx, "s1", upper)
	must(t, err)
	want(t, "upper in the options", upperOf(options), upper)
	dir := b.overlayAt(options)
	want(t, "mount", tree(t, dir), seedTree)
	b.write(filepath.Join(dir, "mine"), "c1")
	b.unmount(dir)
	want(t, "upper", tree(t, upper), "mine=c1")
	want(t, "mount of a cold restart", tree(t, b.mountKey("default/9/c1")), seedTree+" mine=c1")
	info, err := b.Stat(b.ctx, "default/9/c1")
	must(t, err)
	want(t, "label", info.Labels[LabelSeed], "s1")
}

func TestOverRefusesWhatIsNotFresh(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	b.seed("s2", chainID)
	upper := b.container("default/9/c1", image)
	if _, err := b.Over(b.ctx, "s0", upper); !errdefs.IsNotFound(err) {
		t.Errorf("unknown seed: got %v", err)
	}
	_, err := b.Over(b.ctx, "s1", upper)
	must(t, err)
	if _, err := b.Over(b.ctx, "s1", upper); err != nil {
		t.Errorf("same seed again, nothing written: got %v", err)
	}
	if _, err := b.Over(b.ctx, "s2", upper); !errors.Is(err, ErrMisfit) {
		t.Errorf("another seed: got %v", err)
	}
	b.write(filepath.Join(upper, "mine"), "c1")
	if _, err := b.Over(b.ctx, "s1", upper); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("upper with files: got %v", err)
	}
}

func TestPlainTakesTheSeedAwayAndNoFile(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	upper := b.container("default/9/c1", image)
	_, err := b.Over(b.ctx, "s1", upper)
	must(t, err)
	b.write(filepath.Join(upper, "mine"), "c1")
	must(t, b.Plain(b.ctx, upper))
	must(t, b.Plain(b.ctx, upper))
	want(t, "mount", tree(t, b.mountKey("default/9/c1")), "app/conf=image app/main=image dir/a=image dir/b=image etc/passwd=root gone=image mine=c1")
}

func TestRenewMakesAFailedAdoptionAFreshContainer(t *testing.T) {
	b, upper, dir := adopted(t)
	b.unmount(dir)
	must(t, os.Chmod(upper, 0o700))
	must(t, b.Renew(b.ctx, upper))
	info, err := os.Stat(upper)
	must(t, err)
	want(t, "mode", info.Mode().Perm(), 0o755)
	cold := b.mountKey("default/9/c1")
	want(t, "mount", tree(t, cold), imageTree)
	b.unmount(cold)
	options, err := b.Over(b.ctx, "s1", upper) // the next rung
	must(t, err)
	want(t, "mount of the next rung", tree(t, b.overlayAt(options)), seedTree)
}

func TestTheRootOfASeedKeepsItsModeAndOwner(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	options, err := b.PrepareBake(b.ctx, "s1", chainID)
	must(t, err)
	dir := b.overlayAt(options)
	must(t, os.Chown(dir, 7, 8))
	must(t, os.Chmod(dir, os.ModeSticky|0o770))
	b.unmount(dir)
	must(t, b.CommitSeed(b.ctx, "s1"))
	over, err := b.Over(b.ctx, "s1", b.container("default/9/c1", image))
	must(t, err)
	for name, dir := range map[string]string{"spare": b.spare("s1", "i1"), "over": b.overlayAt(over)} {
		info, err := os.Stat(dir)
		must(t, err)
		want(t, name+": mode", info.Mode(), os.ModeDir|os.ModeSticky|0o770)
		want(t, name+": owner", ownerOf(info), [2]uint32{7, 8})
	}
}
