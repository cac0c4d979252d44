package pages

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/imagetest"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// baked boots an image's application, warms it up and gives the files in which CRIU has put its memory.
func baked(t *testing.T, name string, cgroup string) (files []string) {
	t.Helper()
	img, dir := imagetest.Get(t, name), t.TempDir()
	ready, err := bake.ParseReadiness("http://:8080/")
	must(t, err)
	_, err = bake.Run(t.Context(), bake.Options{
		ID: "pages", Dir: filepath.Join(dir, "bake"), ImagesDir: filepath.Join(dir, "images"), Overlay: img.Overlay(t), Spec: img.Spec(t), Ready: ready, Warmup: 20,
		RuncPath: imagetest.Tool(t, "runc"), CRIU: restore.CRIU{Path: imagetest.Tool(t, "criu")}, CgroupPath: cgroup + "/bake", Progress: func(*api.BakeEvent) {},
	})
	if e, ok := errors.AsType[*bake.Error](err); ok {
		t.Fatal(e.Report())
	}
	must(t, err)
	files, err = filepath.Glob(filepath.Join(dir, "images", "pages-*.img"))
	must(t, err)
	return files
}

func TestTwoSeedsOfOneApplicationShareMemoryOnDisk(t *testing.T) {
	cgroup := fmt.Sprintf("/sprout-pages-test-%d", os.Getpid())
	t.Cleanup(func() { must(t, linux.Cgroup{Path: cgroup}.Remove()) })
	b := newBed(t)
	for n := range 2 {
		files := baked(t, "python-demo", cgroup)
		var sources []Source
		var memory [][]byte
		for _, name := range files {
			data, err := os.ReadFile(name)
			must(t, err)
			sources, memory = append(sources, Source{filepath.Base(name), bytes.NewReader(data)}), append(memory, data)
		}
		stats, err := b.Put(b.ctx, image(n), sources...)
		must(t, err)
		plain := sizes(t, files)
		t.Logf("seed %d: %d files, %.1f MiB; %+v", n, len(files), float64(plain)/(1<<20), stats)
		for i, source := range sources {
			data, err := get(b.Store, b.ctx, image(n), source.Name)
			must(t, err)
			want(t, source.Name+" is read back", bytes.Equal(data, memory[i]), true)
		}
		if stats.Bytes > plain/3 {
			t.Errorf("%d bytes of memory take %d on disk", plain, stats.Bytes)
		}
	}
	u := b.usage(image(1))
	t.Logf("usage of the second: %+v", u)
	// Two boots have little in common but tables without pointers: addresses are random.
	if u.Shared < 200 {
		t.Errorf("the second seed shares %d of %d pages with the first", u.Shared, u.Pages)
	}
	b.clean()
	must(t, b.Remove(b.ctx, image(0)))
	_, err := b.Collect(b.ctx)
	must(t, err)
	b.clean()
}
