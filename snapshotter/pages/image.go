package pages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"sync"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
	"golang.org/x/sync/errgroup"
)

// Image is one that is open for reading. It stays readable when it is removed from the store, until Close.
type Image struct {
	*Manifest
	store  *Store
	places map[Hash]place
	packs  openPacks
}

// Extent is a run of pages of a file, from the First.
type Extent struct {
	First, Pages int
}

// Image opens an image. There is none of that name: errdefs.ErrNotFound.
func (s *Store) Image(id ID) (_ *Image, err error) {
	s.packs.RLock()
	defer s.packs.RUnlock()
	i := &Image{store: s, places: make(map[Hash]place), packs: openPacks{store: s}}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("open pages of %s: %w", id, err), i.Close())
		}
	}()
	if i.Manifest, err = s.manifest(id); err != nil {
		return nil, err
	}
	if err := i.locate(); err != nil {
		return nil, err
	}
	for _, at := range i.places {
		if _, err := i.packs.file(at.pack); err != nil {
			return nil, err
		}
	}
	return i, nil
}

// Close closes the image. Nothing may be reading it.
func (i *Image) Close() error {
	i.packs.close()
	return nil
}

// manifest reads that of an image. The caller holds packs or writing.
func (s *Store) manifest(id ID) (m *Manifest, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		m, err = s.readManifest(tx, id)
		return err
	})
	return m, err
}

func (s *Store) readManifest(tx *bolt.Tx, id ID) (*Manifest, error) {
	r, found, err := row(tx, bucketImages, id.key(), parseImageRow)
	if err != nil {
		return nil, &DamageError{File: indexName, Err: err}
	}
	if !found {
		return nil, errdefs.ErrNotFound
	}
	data, err := os.ReadFile(s.path(manifestName(r.number)))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	var m *Manifest
	if err == nil {
		m, err = parseManifest(data, r.sum)
	}
	if err == nil && m.ID != id {
		err = errDamaged
	}
	if err != nil {
		return nil, &DamageError{File: manifestName(r.number), Err: err}
	}
	return m, nil
}

// locate finds where the pages are.
func (i *Image) locate() error {
	return i.store.view(func(tx *bolt.Tx) error {
		for _, f := range i.Files {
			for n, h := range f.Pages {
				if _, done := i.places[h]; done || h.IsZero() {
					continue
				}
				r, found, err := row(tx, bucketPages, h[:], parsePageRow)
				if err == nil && !found {
					err = errDamaged
				}
				if err != nil {
					return &DamageError{File: indexName, Page: pageName(f.Name, n), Err: fmt.Errorf("row of page %s: %w", h, err)}
				}
				i.places[h] = r.place
			}
		}
		return nil
	})
}

func pageName(file string, page int) string { return fmt.Sprintf("page %d of %s", page, file) }

// wanted is a frame and the pages of a file that are wanted of it, in their order.
type wanted struct {
	place
	pages []int
}

// Fill writes pages of a file to where they belong in dst; those of zeros are left out: dst has them. The frames that the first extents need come first;
// each is read once, and what it has of the other extents goes with it. Several are written at a time. A frame is written only when it is found whole.
func (i *Image) Fill(ctx context.Context, file string, dst io.WriterAt, order ...Extent) error {
	pages, err := i.pagesOf(file)
	if err != nil {
		return err
	}
	list, err := i.plan(pages, order)
	if err != nil {
		return fmt.Errorf("fill from %s of %s: %w", file, i.ID, err)
	}
	group, filling := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	for _, w := range list {
		if filling.Err() != nil {
			break
		}
		group.Go(func() error { return i.write(dst, pages, w, file) })
	}
	if err := cmp.Or(group.Wait(), ctx.Err()); err != nil {
		return fmt.Errorf("fill from %s of %s: %w", file, i.ID, err)
	}
	return nil
}

func (i *Image) pagesOf(file string) ([]Hash, error) {
	for _, f := range i.Files {
		if f.Name == file {
			return f.Pages, nil
		}
	}
	return nil, fmt.Errorf("file %s of %s: %w", file, i.ID, errdefs.ErrNotFound)
}

// plan lists frames in the order of need.
func (i *Image) plan(pages []Hash, order []Extent) (list []*wanted, err error) {
	frames := make(map[place]*wanted)
	for _, e := range order {
		if e.First < 0 || e.Pages < 0 || e.First > len(pages)-e.Pages {
			return nil, fmt.Errorf("pages %d+%d of %d: %w", e.First, e.Pages, len(pages), errdefs.ErrOutOfRange)
		}
		for n := e.First; n < e.First+e.Pages; n++ {
			if pages[n].IsZero() {
				continue
			}
			at := i.places[pages[n]]
			w := frames[at]
			if w == nil {
				w = &wanted{place: at}
				frames[at], list = w, append(list, w)
			}
			w.pages = append(w.pages, n)
		}
	}
	return list, nil
}

// buffers are for one frame as it is on disk, and for its pages.
var buffers = sync.Pool{New: func() any { return new([2][]byte{make([]byte, maxFrame), make([]byte, framePages*PageSize)}) }}

// write writes what is wanted of a frame, neighbours at once.
func (i *Image) write(dst io.WriterAt, hashes []Hash, w *wanted, file string) error {
	buffer := buffers.Get().(*[2][]byte)
	defer buffers.Put(buffer)
	f, data, err := i.frame(w.place, buffer)
	if err != nil {
		if e, ok := errors.AsType[*DamageError](err); ok {
			e.Page = pageName(file, w.pages[0])
		}
		return err
	}
	slot := 0
	for first, next := 0, 0; first < len(w.pages); first = next {
		if slot = f.slot(hashes[w.pages[first]], slot); slot < 0 {
			return &DamageError{File: indexName, Page: pageName(file, w.pages[first]), Err: errDamaged}
		}
		n := 1
		for next = first + 1; next < len(w.pages) && w.pages[next] == w.pages[first]+n; next, n = next+1, n+1 {
			if slot+n == len(f.hashes) || f.hashes[slot+n] != hashes[w.pages[next]] {
				break
			}
		}
		if _, err := dst.WriteAt(data[slot*PageSize:(slot+n)*PageSize], int64(w.pages[first])*PageSize); err != nil {
			return err
		}
	}
	return nil
}

// frame reads and decompresses a frame.
func (i *Image) frame(at place, buffer *[2][]byte) (frame, []byte, error) {
	f, err := readFrame(i.packs.files[at.pack], at, buffer[0])
	if err != nil {
		return f, nil, err
	}
	data, err := i.store.codec.pages(f, buffer[1])
	if err != nil {
		return f, nil, &DamageError{File: packName(at.pack), Offset: at.offset, Err: err}
	}
	return f, data, nil
}

// slot finds a page in a frame, from where it is likely to be; negative: the frame does not have it.
func (f frame) slot(h Hash, likely int) int {
	for n := range f.hashes {
		if slot := (likely + n) % len(f.hashes); f.hashes[slot] == h {
			return slot
		}
	}
	return -1
}
