package pages

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	bolt "go.etcd.io/bbolt"
)

// Source is a file to be put into the store: whole pages.
type Source struct {
	Name string
	Data io.Reader
}

// Stats say what became of an image's pages.
type Stats struct {
	// Pages are all, Zeros those of zeros, Known those that the store had or that the image has before, Stored the rest.
	Pages, Zeros, Known, Stored uint64
	// Bytes is what the stored ones take on disk.
	Bytes uint64
}

// Put stores an image under a name that there is not yet (errdefs.ErrAlreadyExists). When it returns without an error, the image outlives a crash; with one,
// nothing of it is left. An image that the quota has no room for is a *QuotaError.
func (s *Store) Put(ctx context.Context, id ID, sources ...Source) (_ Stats, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("store pages of %s: %w", id, err)
		}
	}()
	if err := id.check(); err != nil {
		return Stats{}, err
	}
	s.writing.Lock()
	defer s.writing.Unlock()
	used, err := s.mayPut(id)
	if err != nil {
		return Stats{}, err
	}
	p := &putting{s: s, manifest: Manifest{ID: id}, hasher: newHasher(id.Tenant), frames: make(map[place][]Hash)}
	p.batch = s.newBatch(s.quota - min(used, s.quota))
	p.packs = openPacks{store: s}
	defer p.packs.close()
	for _, source := range sources {
		if err == nil {
			err = p.read(ctx, source)
		}
	}
	if err == nil {
		err = p.finish()
	}
	if errors.Is(err, errLimit) {
		err = &QuotaError{s.quota, used}
	}
	if err != nil {
		return Stats{}, errors.Join(err, p.undo())
	}
	p.stats.Bytes = p.batch.written
	return p.stats, nil
}

// mayPut gives the bytes in use, and an error when there is such an image.
func (s *Store) mayPut(id ID) (used uint64, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		if tx.Bucket(bucketImages).Get(id.key()) != nil {
			return errdefs.ErrAlreadyExists
		}
		used, err = usedBytes(tx)
		return err
	})
	return used, err
}

// usedBytes is the size of packs and manifests.
func usedBytes(tx *bolt.Tx) (used uint64, err error) {
	return used, errors.Join(
		eachRow(tx, bucketPacks, parsePackRow, func(_ []byte, r packRow) error { used += r.bytes; return nil }),
		eachRow(tx, bucketImages, parseImageRow, func(_ []byte, r imageRow) error { used += r.bytes; return nil }))
}

// putting is one Put.
type putting struct {
	s        *Store
	manifest Manifest
	number   uint64 // of the manifest
	hasher   *hasher
	batch    *batch
	packs    openPacks
	// frames are those that known pages lie in, with the pages that they have; none: damaged.
	frames map[place][]Hash
	stats  Stats
	// counts is set when the transaction begins: one that fails may be on disk after all.
	counts bool
}

// read reads a file of the image.
func (p *putting) read(ctx context.Context, source Source) error {
	if err := checkName("name of a file", source.Name); err != nil {
		return err
	}
	file := File{Name: source.Name}
	block := make([]byte, framePages*PageSize)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.ReadFull(source.Data, block)
		last := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if err != nil && !last {
			return fmt.Errorf("read %s: %w", source.Name, err)
		}
		if n%PageSize != 0 {
			return fmt.Errorf("%s ends within a page: %w", source.Name, errdefs.ErrInvalidArgument)
		}
		hashes, err := p.block(block[:n])
		if err != nil {
			return err
		}
		file.Pages = append(file.Pages, hashes...)
		if last {
			p.manifest.Files = append(p.manifest.Files, file)
			return nil
		}
	}
}

// block stores some pages, as far as they are new.
func (p *putting) block(data []byte) (hashes []Hash, err error) {
	for page := range slices.Chunk(data, PageSize) {
		hashes = append(hashes, p.hasher.hash(page))
	}
	known, err := p.known(hashes)
	if err != nil {
		return nil, err
	}
	for i, h := range hashes {
		p.stats.Pages++
		switch {
		case h.IsZero():
			if p.stats.Zeros++; p.stats.Zeros > maxZeros {
				return nil, fmt.Errorf("more than %d pages of zeros: %w", maxZeros, errdefs.ErrInvalidArgument)
			}
		case known[i] || p.batch.has(h):
			p.stats.Known++
		default:
			p.stats.Stored++
			if err := p.batch.add(h, data[i*PageSize:(i+1)*PageSize]); err != nil {
				return nil, err
			}
		}
	}
	return hashes, nil
}

// known says which pages the store has, undamaged.
func (p *putting) known(hashes []Hash) (known []bool, err error) {
	known, rows := make([]bool, len(hashes)), make([]pageRow, len(hashes))
	err = p.s.view(func(tx *bolt.Tx) error {
		for i, h := range hashes {
			r, found, err := row(tx, bucketPages, h[:], parsePageRow)
			// A damaged row is written again, and its page.
			rows[i], known[i] = r, found && err == nil
		}
		return nil
	})
	for i, h := range hashes {
		if known[i] {
			known[i] = p.whole(h, rows[i].place)
		}
	}
	return known, err
}

// whole says whether the frame that a page should be in is whole, and has the page.
func (p *putting) whole(h Hash, at place) bool {
	has, seen := p.frames[at]
	if !seen {
		if f, err := p.packs.frame(at); err == nil {
			has = f.hashes
		}
		p.frames[at] = has
	}
	return slices.Contains(has, h)
}

// finish writes the manifest and makes all of it count.
func (p *putting) finish() error {
	if err := p.batch.seal(); err != nil {
		return err
	}
	data, sum := p.manifest.encode()
	if err := p.batch.spend(uint64(len(data))); err != nil {
		return err
	}
	p.number = p.s.number()
	if err := p.s.writeManifest(p.number, data); err != nil {
		return err
	}
	p.s.point("files written")
	p.counts = true
	row := imageRow{number: p.number, bytes: uint64(len(data)), pages: p.stats.Pages, sum: sum}
	return p.s.commit(func(c *change) error {
		if err := c.add(p.batch); err != nil {
			return err
		}
		for _, h := range p.manifest.distinct() {
			if err := c.refer(h, p.batch); err != nil {
				return err
			}
		}
		return c.tx.Bucket(bucketImages).Put(p.manifest.key(), row.encode())
	})
}

// undo removes what a Put that has failed has written, or leaves it to Open.
func (p *putting) undo() error {
	if p.counts {
		return nil
	}
	name := p.s.path(manifestName(p.number))
	return errors.Join(p.batch.abort(), remove(name), remove(name+suffixNew))
}

// distinct are the pages of a manifest, each once, in their order in the index.
func (m *Manifest) distinct() []Hash {
	set := make(map[Hash]struct{})
	for _, f := range m.Files {
		for _, h := range f.Pages {
			if !h.IsZero() {
				set[h] = struct{}{}
			}
		}
	}
	return slices.SortedFunc(maps.Keys(set), func(a, b Hash) int { return bytes.Compare(a[:], b[:]) })
}

func (s *Store) writeManifest(number uint64, data []byte) error {
	name := s.path(manifestName(number))
	f, err := os.OpenFile(name+suffixNew, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	s.point("manifest synced")
	if err := os.Rename(name+suffixNew, name); err != nil {
		return err
	}
	return syncDir(s.path("manifests"))
}
