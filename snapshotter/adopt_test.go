package snapshotter

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
)

// adopted has a container "default/9/c1" that has taken over the spare "i1" of seed "s1", whose mount is live at dir.
func adopted(t *testing.T) (b *bed, upper, dir string) {
	t.Helper()
	b = newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	upper = b.container("default/9/c1", image)
	dir = b.spare("s1", "i1")
	b.write(filepath.Join(dir, "before"), "adopt")
	must(t, b.Adopt(b.ctx, "i1", upper))
	return b, upper, dir
}

func TestAdoptHandsTheLiveMountOfASpareToTheContainer(t *testing.T) {
	b, upper, dir := adopted(t)

	b.write(filepath.Join(dir, "after"), "adopt")       // a new file: made in work, moved to upper
	b.write(filepath.Join(dir, "app/main"), "copied")   // a copy-up of an image's file
	b.write(filepath.Join(dir, "app/conf"), "copied")   // a copy-up of the seed's file
	must(t, os.Remove(filepath.Join(dir, "cache")))     // a whiteout
	must(t, os.RemoveAll(filepath.Join(dir, "dir")))    // a directory's whiteout
	must(t, os.Mkdir(filepath.Join(dir, "dir"), 0o755)) // an opaque directory
	live := tree(t, dir)
	want(t, "live mount", live, "after=adopt app/conf=copied app/main=copied before=adopt etc/passwd=root")
	want(t, "upper", tree(t, upper), "after=adopt app/conf=copied app/main=copied before=adopt")

	b.unmount(dir)
	cold := b.mountKey("default/9/c1")
	want(t, "cold mount", tree(t, cold), live)
	b.write(filepath.Join(cold, "later"), "cold")
	want(t, "upper after a cold write", strings.Contains(tree(t, upper), "later=cold"), true)
}

func TestAdoptSurvivesARestartOfSproutd(t *testing.T) {
	b, upper, dir := adopted(t)
	b.reopen()
	b.write(filepath.Join(dir, "after"), "restart")
	want(t, "upper", tree(t, upper), "after=restart before=adopt")
	chainID, pristine, err := b.Chain(b.ctx, upper)
	must(t, err)
	want(t, "chain", chainID, chain("app"))
	want(t, "pristine", pristine, false)
	b.unmount(dir)
	want(t, "cold mount", tree(t, b.mountKey("default/9/c1")), "after=restart app/conf=s1 app/main=image before=adopt cache=s1 dir/new=s1 etc/passwd=root")
}

func TestAdoptLabelsTheContainersSnapshotAndEndsTheSpares(t *testing.T) {
	b, _, _ := adopted(t)
	info, err := b.Stat(b.ctx, "default/9/c1")
	must(t, err)
	want(t, "label", info.Labels[LabelSeed], "s1")
	want(t, "parent", info.Parent, "default/2/"+chain("app"))
	_, spares, err := b.List(b.ctx)
	must(t, err)
	want(t, "spares", len(spares), 0)
	b.noLeftovers()
}

func TestUsageOfAnAdoptedContainerIsItsOwnUpper(t *testing.T) {
	b, _, dir := adopted(t)
	before, err := b.Usage(b.ctx, "default/9/c1")
	must(t, err)
	b.write(filepath.Join(dir, "big"), strings.Repeat("x", 1<<20))
	after, err := b.Usage(b.ctx, "default/9/c1")
	must(t, err)
	if grown := after.Size - before.Size; grown < 1<<20 || grown > 1<<20+8192 {
		t.Errorf("1 MiB written, usage grew by %d", grown)
	}
}

func TestRemovingAnAdoptedContainerFreesAllOfIt(t *testing.T) {
	b, upper, dir := adopted(t)
	b.unmount(dir)
	must(t, b.Remove(b.ctx, "default/9/c1"))
	b.noLeftovers()
	if _, err := os.Stat(upper); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("upper directory: %v", err)
	}
	_, _, err := b.Chain(b.ctx, upper)
	want(t, "chain of the removed container is not ours", errors.Is(err, ErrNotOurs), true)
}

func TestAdoptRefusesAnUpperThatIsNotEmpty(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	upper := b.container("default/9/c1", image)
	b.write(filepath.Join(upper, "mine"), "c1")
	dir := b.spare("s1", "i1")
	b.write(filepath.Join(dir, "spare"), "i1")

	err := b.Adopt(b.ctx, "i1", upper)
	want(t, "not empty", errors.Is(err, ErrNotEmpty), true)
	want(t, "failed precondition", errdefs.IsFailedPrecondition(err), true)

	want(t, "upper", tree(t, upper), "mine=c1")
	other := b.container("default/10/c2", image)
	must(t, b.Adopt(b.ctx, "i1", other)) // the spare is as good as before
	want(t, "upper of the other", tree(t, other), "spare=i1")
}

func TestAdoptTakesAnUpperThatHasBeenMountedBefore(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	upper := b.container("default/9/c1", image)
	b.unmount(b.mountKey("default/9/c1"))
	dir := b.spare("s1", "i1")
	must(t, b.Adopt(b.ctx, "i1", upper))
	want(t, "live mount", tree(t, dir), seedTree)
	b.unmount(dir)
	want(t, "cold mount", tree(t, b.mountKey("default/9/c1")), seedTree)
}

func TestAdoptRefusesWhatTheSeedDoesNotFit(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	b.seed("s2", chainID)
	other := b.image("default/3/"+chain("other"), image, map[string]string{"other": "image"})
	named := b.image("default/4/by-name", image, nil)
	second := b.container("default/13/on-s2", image)
	_, err := b.Over(b.ctx, "s2", second)
	must(t, err)
	b.spare("s1", "i1")

	for name, upper := range map[string]string{
		"another image":              b.container("default/10/c", other),
		"an image without a chain":   b.container("default/11/c", named),
		"another seed's container":   second,
		"a container with user maps": b.container("default/12/c", image, snapshots.WithLabels(map[string]string{snapshots.LabelSnapshotUIDMapping: "0:1000:65536", snapshots.LabelSnapshotGIDMapping: "0:1000:65536"})),
	} {
		t.Run(name, func(t *testing.T) {
			if err := b.Adopt(b.ctx, "i1", upper); !errors.Is(err, ErrMisfit) {
				t.Errorf("got %v", err)
			}
		})
	}
	if err := b.Adopt(b.ctx, "i1", b.root+"/snapshots/99/fs"); !errors.Is(err, ErrNotOurs) {
		t.Errorf("unknown upper: got %v", err)
	}
	if err := b.Adopt(b.ctx, "i9", b.container("default/14/c", image)); !errdefs.IsNotFound(err) {
		t.Errorf("unknown spare: got %v", err)
	}
}

func TestAnAdoptionThatFailsHalfwayCostsTheSpareOnly(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	upper := b.container("default/9/c1", image)
	options, err := b.PrepareSpare(b.ctx, "s1", "i1")
	must(t, err)
	must(t, os.Remove(filepath.Join(filepath.Dir(upperOf(options)), "work")))

	if err := b.Adopt(b.ctx, "i1", upper); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	want(t, "container", tree(t, b.mountKey("default/9/c1")), imageTree)
	must(t, b.RemoveSpare(b.ctx, "i1"))
	b.noLeftovers()
}

func TestOneSpareIsAdoptedOnce(t *testing.T) {
	b := newBed(t)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	b.spare("s1", "i1")
	uppers := []string{b.container("default/9/a", image), b.container("default/10/b", image), b.container("default/11/c", image)}
	start, results := make(chan struct{}), make(chan error)
	for _, upper := range uppers {
		go func() {
			<-start
			results <- b.Adopt(b.ctx, "i1", upper)
		}()
	}
	close(start)
	won := 0
	for range uppers {
		if err := <-results; err == nil {
			won++
		} else if !errdefs.IsNotFound(err) {
			t.Error(err)
		}
	}
	want(t, "containers that got it", won, 1)
}

func BenchmarkAdopt(bench *testing.B) {
	b := newBed(bench)
	image, chainID := b.demo("default")
	b.seed("s1", chainID)
	for n := 0; bench.Loop(); n++ {
		bench.StopTimer()
		instance := fmt.Sprint("i", n)
		upper := b.container("default/9/"+instance, image)
		_, err := b.PrepareSpare(b.ctx, "s1", instance)
		must(bench, err)
		bench.StartTimer()
		must(bench, b.Adopt(b.ctx, instance, upper))
	}
}
