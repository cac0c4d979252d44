package pages

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/seedpool/imagetest"
)

// TestMain is the process that is killed when crash_test.go asks for it.
func TestMain(m *testing.M) {
	if os.Getenv(envDir) != "" {
		work()
	}
	code := m.Run()
	if err := imagetest.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

// bed is a store in a directory of its own.
type bed struct {
	*Store
	t     testing.TB
	ctx   context.Context
	quota uint64
}

func newBed(t testing.TB) *bed {
	t.Helper()
	b := &bed{t: t, ctx: t.Context()}
	b.open(t.TempDir())
	t.Cleanup(func() { must(t, b.Close()) })
	return b
}

func (b *bed) open(dir string) {
	b.t.Helper()
	s, err := Open(dir, Options{Quota: b.quota})
	must(b.t, err)
	b.Store = s
}

func (b *bed) reopen() {
	b.t.Helper()
	must(b.t, b.Close())
	b.open(b.dir)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want[T comparable](t testing.TB, what string, have, want T) {
	t.Helper()
	if have != want {
		t.Fatalf("%s: %v, want %v", what, have, want)
	}
}

// page is the n-th of many different pages, half of it noise; the 0th is one of zeros.
func page(n int) []byte {
	p := make([]byte, PageSize)
	if n == 0 {
		return p
	}
	r := rand.New(rand.NewPCG(uint64(n), 0))
	for at := 0; at < PageSize/2; at += 8 {
		binary.LittleEndian.PutUint64(p[at:], r.Uint64())
	}
	return p
}

// file is that of some pages.
func file(pages ...int) []byte {
	var b []byte
	for _, n := range pages {
		b = append(b, page(n)...)
	}
	return b
}

// numbers are those from one to another.
func numbers(first, last int) (list []int) {
	for n := first; n <= last; n++ {
		list = append(list, n)
	}
	return list
}

// put stores an image of one file called pages.
func (b *bed) put(id ID, pages ...int) Stats {
	b.t.Helper()
	stats, err := b.Put(b.ctx, id, Source{"pages", bytes.NewReader(file(pages...))})
	must(b.t, err)
	return stats
}

// memory is where Fill writes to.
type memory []byte

func (m memory) WriteAt(p []byte, at int64) (int, error) { return copy(m[at:], p), nil }

// get reads a file of an image.
func get(s *Store, ctx context.Context, id ID, name string) ([]byte, error) {
	i, err := s.Image(id)
	if err != nil {
		return nil, err
	}
	defer i.Close()
	pages, err := i.pagesOf(name)
	if err != nil {
		return nil, err
	}
	data := make(memory, len(pages)*PageSize)
	return data, i.Fill(ctx, name, data, Extent{0, len(pages)})
}

// has checks that an image reads back as it was put.
func (b *bed) has(id ID, pages ...int) {
	b.t.Helper()
	data, err := get(b.Store, b.ctx, id, "pages")
	must(b.t, err)
	if !bytes.Equal(data, file(pages...)) {
		b.t.Fatalf("%s has not the pages that it was put with", id)
	}
}

// clean checks that the store is whole and has no file that nothing leads to.
func (b *bed) clean() {
	b.t.Helper()
	problems, err := b.VerifyAll(b.ctx)
	must(b.t, err)
	for _, p := range problems {
		b.t.Error(p)
	}
}

// files are those of the store, apart from the index.
func (b *bed) files() (names []string) {
	b.t.Helper()
	must(b.t, filepath.WalkDir(b.dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && !strings.HasPrefix(entry.Name(), indexName) {
			names = append(names, path)
		}
		return err
	}))
	slices.Sort(names)
	return names
}

func (b *bed) total() Total {
	b.t.Helper()
	t, err := b.Total()
	must(b.t, err)
	return t
}

func (b *bed) usage(id ID) Usage {
	b.t.Helper()
	u, err := b.Usage(id)
	must(b.t, err)
	return u
}

func image(n int) ID { return ID{"default", fmt.Sprintf("image-%d", n)} }
