package seedpool

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestGarbageIsShownAndThenRemovedAndNothingElse(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	p.setYoung("young", true)
	defer p.setYoung("young", false)
	for _, dir := range []string{
		p.paths.InstanceDir("lost"), p.paths.SleepDir("lost"), p.paths.ImagesDir("lost"), p.paths.ImagesDir("young"), filepath.Join(p.paths.BakesDir(), "lost"),
		filepath.Join(p.paths.BakesDir(), "young"), filepath.Join(p.paths.TemplatesDir(), "lost"), p.paths.HotImagesDir("earlier"), b.rootfs.dir("seeds", "lost"),
		b.rootfs.dir("seeds", "young"), b.rootfs.dir("spares", "lost"),
	} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	group := linux.Cgroup{Path: p.spareCgroup("lost").Path}
	if err := group.Create(); err != nil {
		t.Fatal(err)
	}
	sv := &service{pool: p}
	sweep := func(dry bool) (list []string) {
		t.Helper()
		done, err := sv.Collect(t.Context(), &api.CollectRequest{DryRun: dry})
		if err != nil {
			t.Fatal(err)
		}
		for _, one := range done.Garbage {
			list = append(list, one.Kind+" "+one.Id)
		}
		slices.Sort(list)
		return list
	}
	want := []string{"bake lost", "cgroup lost", "image images-earlier", "instance lost", "layer lost", "seed lost", "sleeper lost", "snapshot lost", "template lost"}
	for range 2 {
		if diff := cmp.Diff(want, sweep(true)); diff != "" {
			t.Errorf("would be removed: %s", diff)
		}
	}
	if diff := cmp.Diff(want, sweep(false)); diff != "" {
		t.Errorf("was removed: %s", diff)
	}
	if again := sweep(false); len(again) > 0 {
		t.Errorf("is still there: %v", again)
	}
	if found := names(t, p.paths.SeedsDir()); !slices.Contains(found, s.id) || !slices.Contains(found, "young") || len(found) != 2 {
		t.Errorf("seeds left: %v", found)
	}
	if found := names(t, b.rootfs.dir("seeds")); len(found) != 2 {
		t.Errorf("layers left: %v", found)
	}
	b.ready("shop", 1)
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
