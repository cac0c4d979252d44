package snapshotter

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/pkg/rootfs"
	"github.com/containerd/containerd/v2/plugins/diff/walking"
)

func TestADiffOfAContainerIsWhatItSeesAgainstItsImage(t *testing.T) {
	h := newHouse(t)
	h.pull(chain("app"))
	options, err := h.PrepareBake(h.ctx, "s1", chain("app"))
	must(t, err)
	dir := h.overlayAt(options)
	must(t, os.Remove(filepath.Join(dir, "app")))
	h.write(filepath.Join(dir, "cache"), "s1")
	h.unmount(dir)
	must(t, h.CommitSeed(h.ctx, "s1"))
	m, err := h.sn.Prepare(h.ctx, "c1", chain("app"), root)
	must(t, err)
	dir = h.spare("s1", "i1")
	must(t, h.Adopt(h.ctx, "i1", upperOf(m[0].Options)))
	h.write(filepath.Join(dir, "mine"), "c1")
	h.unmount(dir)

	store := h.db.ContentStore()
	layer, err := rootfs.CreateDiff(h.ctx, "c1", h.sn, walking.NewWalkingDiff(store))
	must(t, err)
	reader, err := store.ReaderAt(h.ctx, layer)
	must(t, err)
	defer reader.Close()
	unzipped, err := gzip.NewReader(content.NewReader(reader))
	must(t, err)
	var names []string
	for archive := tar.NewReader(unzipped); ; {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		names = append(names, entry.Name)
	}
	slices.Sort(names)
	want(t, "diff", strings.Join(names, " "), ".wh.app cache mine")
}
