package snapshotter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
)

// TestMain is the process that crashes when crash_test.go asks for it. Otherwise it runs the tests and fails when one of them leaves a mount.
func TestMain(m *testing.M) {
	if at := os.Getenv(envCrashAt); at != "" {
		crash(at)
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests mount overlays: run them as root")
		os.Exit(1)
	}
	before := mounts()
	code := m.Run()
	if after := mounts(); after != before {
		fmt.Fprintf(os.Stderr, "%d mounts before the tests, %d after\n", before, after)
		code = 1
	}
	os.Exit(code)
}

func mounts() int {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		panic(err)
	}
	return bytes.Count(table, []byte("\n"))
}

// bed is a snapshotter in a directory of its own.
type bed struct {
	*Snapshotter
	t   testing.TB
	ctx context.Context
}

func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{t: t, ctx: t.Context()}
	b.open(t.TempDir())
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

func (b *bed) open(root string) {
	b.t.Helper()
	s, err := New(root)
	must(b.t, err)
	b.Snapshotter = s
}

// reopen is a restart of sproutd.
func (b *bed) reopen() {
	b.t.Helper()
	must(b.t, b.Close())
	b.open(b.root)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// image commits a layer with these files, as containerd does when it unpacks an image, and gives its key.
func (b *bed) image(key, parent string, files map[string]string) string {
	b.t.Helper()
	layer, err := b.Prepare(b.ctx, key+"-extract", parent)
	must(b.t, err)
	dir := b.mount(layer)
	for name, content := range files {
		b.write(filepath.Join(dir, name), content)
	}
	b.unmount(dir)
	must(b.t, b.Commit(b.ctx, key, key+"-extract"))
	return key
}

// chain is a chain id that is good enough for tests.
func chain(name string) string { return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(name))) }

// demo is an image of two layers.
func (b *bed) demo(namespace string) (key, chainID string) {
	b.t.Helper()
	base := b.image(namespace+"/1/"+chain("base"), "", map[string]string{"etc/passwd": "root", "gone": "image", "dir/a": "image", "dir/b": "image"})
	return b.image(namespace+"/2/"+chain("app"), base, map[string]string{"app/main": "image", "app/conf": "image"}), chain("app")
}

// seed bakes a seed that removes a file, replaces a directory, changes a file and adds one.
func (b *bed) seed(id, chainID string) {
	b.t.Helper()
	options, err := b.PrepareBake(b.ctx, id, chainID)
	must(b.t, err)
	dir := b.overlayAt(options)
	must(b.t, os.Remove(filepath.Join(dir, "gone")))
	must(b.t, os.RemoveAll(filepath.Join(dir, "dir")))
	b.write(filepath.Join(dir, "dir/new"), id)
	b.write(filepath.Join(dir, "app/conf"), id)
	b.write(filepath.Join(dir, "cache"), id)
	b.unmount(dir)
	must(b.t, b.CommitSeed(b.ctx, id))
}

// container is what containerd does before it asks for a start: it gives the key and the upper directory.
func (b *bed) container(key, parent string, opts ...snapshots.Opt) string {
	b.t.Helper()
	m, err := b.Prepare(b.ctx, key, parent, opts...)
	must(b.t, err)
	return upperOf(m[0].Options)
}

// spare prepares a spare and mounts it, as a keeper does.
func (b *bed) spare(seed, instance string) (dir string) {
	b.t.Helper()
	options, err := b.PrepareSpare(b.ctx, seed, instance)
	must(b.t, err)
	return b.overlayAt(options)
}

func (b *bed) overlayAt(options []string) string {
	b.t.Helper()
	return b.mount([]mount.Mount{{Type: "overlay", Source: "overlay", Options: options}})
}

func (b *bed) mount(m []mount.Mount) string {
	b.t.Helper()
	dir := b.t.TempDir()
	must(b.t, mount.All(m, dir))
	b.t.Cleanup(func() { must(b.t, mount.UnmountAll(dir, 0)) })
	return dir
}

// mountKey mounts a snapshot as containerd would now.
func (b *bed) mountKey(key string) string {
	b.t.Helper()
	m, err := b.Mounts(b.ctx, key)
	must(b.t, err)
	return b.mount(m)
}

func (b *bed) unmount(dir string) {
	b.t.Helper()
	must(b.t, mount.UnmountAll(dir, 0))
}

func (b *bed) write(path, content string) {
	b.t.Helper()
	must(b.t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(b.t, os.WriteFile(path, []byte(content), 0o644))
}

// tree is every file below a directory with its content, as one sorted text: what a process would see there.
func tree(t testing.TB, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		lines = append(lines, name+"="+string(content))
		return err
	})
	must(t, err)
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

// What a container sees on the image, and on the seed "s1" over it.
const (
	imageTree = "app/conf=image app/main=image dir/a=image dir/b=image etc/passwd=root gone=image"
	seedTree  = "app/conf=s1 app/main=image cache=s1 dir/new=s1 etc/passwd=root"
)

// rows is every key in the metadata, ours too.
func (b *bed) rows() (keys []string) {
	b.t.Helper()
	must(b.t, b.meta.WithTransaction(b.ctx, false, func(ctx context.Context) error {
		return walkRows(ctx, func(info snapshots.Info) { keys = append(keys, info.Name) })
	}))
	return keys
}

// dirs is how many snapshot directories there are after a cleanup.
func (b *bed) dirs() int {
	b.t.Helper()
	must(b.t, b.Cleanup(b.ctx))
	entries, err := os.ReadDir(b.dir(""))
	must(b.t, err)
	return len(entries)
}

// noLeftovers checks that there is a directory for each row and no other.
func (b *bed) noLeftovers() {
	b.t.Helper()
	want(b.t, "directories", b.dirs(), len(b.rows()))
}
