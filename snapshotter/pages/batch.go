package pages

import (
	"errors"
	"os"
)

// batch writes pages into new packs, which do not count until a transaction says so.
type batch struct {
	s *Store
	// limit is how many bytes it may write.
	limit, written uint64
	packs          []*packWriter
	// placed are its pages; those of the frame that is being filled have no length yet.
	placed map[Hash]place
	hashes []Hash
	data   []byte
}

// errLimit says that a batch has become too large.
var errLimit = errors.New("more bytes than allowed")

func (s *Store) newBatch(limit uint64) *batch {
	return &batch{s: s, limit: limit, placed: make(map[Hash]place)}
}

func (b *batch) has(h Hash) bool {
	_, has := b.placed[h]
	return has
}

// add writes a page that it does not have.
func (b *batch) add(h Hash, page []byte) error {
	b.placed[h] = place{}
	b.hashes, b.data = append(b.hashes, h), append(b.data, page...)
	if len(b.hashes) < framePages {
		return nil
	}
	return b.flush()
}

// flush writes the frame that is being filled.
func (b *batch) flush() error {
	if len(b.hashes) == 0 {
		return nil
	}
	w, err := b.pack()
	if err != nil {
		return err
	}
	frame := b.s.codec.frame(b.hashes, b.data)
	if err := b.spend(uint64(len(frame))); err != nil {
		return err
	}
	at, err := w.add(frame, len(b.hashes))
	if err != nil {
		return err
	}
	for _, h := range b.hashes {
		b.placed[h] = at
	}
	b.hashes, b.data = b.hashes[:0], b.data[:0]
	b.s.point("frame written")
	return nil
}

// spend counts bytes before they are written.
func (b *batch) spend(bytes uint64) error {
	if b.written += bytes; b.written > b.limit {
		return errLimit
	}
	return nil
}

// pack is the one that the next frame goes into.
func (b *batch) pack() (*packWriter, error) {
	if n := len(b.packs); n > 0 && b.packs[n-1].bytes < maxPack {
		return b.packs[n-1], nil
	}
	if err := b.spend(packHead); err != nil {
		return nil, err
	}
	w, err := b.s.newPack(b.s.number())
	if w != nil {
		b.packs = append(b.packs, w)
	}
	return w, err
}

// seal sees to it that all packs are on disk under their names.
func (b *batch) seal() error {
	if err := b.flush(); err != nil || len(b.packs) == 0 {
		return err
	}
	for _, w := range b.packs {
		if err := w.sync(); err != nil {
			return err
		}
	}
	b.s.point("packs synced")
	for _, w := range b.packs {
		name := b.s.path(packName(w.number))
		if err := os.Rename(name+suffixNew, name); err != nil {
			return err
		}
		b.s.point("pack renamed")
	}
	return syncDir(b.s.path("packs"))
}

// abort removes what it has written.
func (b *batch) abort() error {
	var errs []error
	for _, w := range b.packs {
		if w.file != nil {
			errs = append(errs, w.file.Close())
		}
		name := b.s.path(packName(w.number))
		errs = append(errs, remove(name), remove(name+suffixNew))
	}
	return errors.Join(errs...)
}

// remove removes a file that may not be there.
func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
