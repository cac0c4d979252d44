package pages

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// suffixDamaged is that of an index that was replaced by a new one. Nobody needs it but whoever wants to know what has happened.
const suffixDamaged = ".damaged"

// openOrRebuild opens the index. One that is damaged, or lost, is made again: packs and manifests say all that it had.
func (s *Store) openOrRebuild() (err error) {
	name := s.path(indexName)
	_, err = os.Lstat(name)
	lost := errors.Is(err, os.ErrNotExist)
	if lost {
		manifests, err := filepath.Glob(s.path("manifests/*.manifest"))
		if err != nil {
			return err
		}
		lost = len(manifests) > 0
	}
	if !lost {
		if s.index, err = openIndex(name); err == nil {
			err = s.recover()
		}
		if !isDamage(err) {
			return err
		}
		if s.index != nil {
			_ = s.index.Close()
			s.index = nil
		}
	}
	if err := s.rebuild(name); err != nil {
		return fmt.Errorf("rebuild index: %w", err)
	}
	return s.recover()
}

// rebuild writes a new index beside the old one, and puts it in its place when it is whole.
func (s *Store) rebuild(name string) (err error) {
	if err := remove(name + suffixNew); err != nil {
		return err
	}
	if s.index, err = openIndex(name + suffixNew); err != nil {
		return err
	}
	f := &finds{s: s, places: make(map[Hash]place), packs: make(map[uint64]packRow), images: make(map[ID]imageRow)}
	if err = f.find(); err == nil {
		err = s.update(f.enter)
	}
	err = errors.Join(err, s.index.Close())
	s.index = nil
	if err != nil {
		return err
	}
	s.point("index rebuilt")
	if err := os.Rename(name, name+suffixDamaged); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	s.point("index set aside")
	if err := errors.Join(os.Rename(name+suffixNew, name), syncDir(s.dir)); err != nil {
		return err
	}
	s.index, err = openIndex(name)
	return err
}

// finds is what packs and manifests say.
type finds struct {
	s      *Store
	places map[Hash]place
	packs  map[uint64]packRow
	images map[ID]imageRow
}

func (f *finds) find() error {
	names, err := f.s.strays(nil)
	if err != nil {
		return err
	}
	for _, name := range names {
		switch filepath.Ext(name) {
		case ".pack":
			err = f.pack(name)
		case ".manifest":
			err = f.manifest(name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// pack notes the pages of a pack, as far as its frames can be followed.
func (f *finds) pack(name string) error {
	file, err := os.Open(f.s.path(name))
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	head := make([]byte, packHead)
	_, _ = io.ReadFull(file, head)
	number, err := parsePackHead(head)
	if err != nil || packName(number) != name {
		return nil //nolint:nilerr // it is no pack: it has no pages
	}
	r := packRow{bytes: uint64(info.Size())}
	for at := range framesOf(file, number) {
		if frame, err := readFrame(file, at, nil); err == nil {
			for _, h := range frame.hashes {
				f.places[h] = at
			}
		}
		r.pages += uint64(at.pages)
	}
	f.packs[number] = r
	return nil
}

// framesOf are the frames of a pack, whole or not, up to one whose head is damaged.
func framesOf(pack io.ReaderAt, number uint64) iter.Seq[place] {
	return func(yield func(place) bool) {
		for at := uint64(packHead); ; {
			length, pages, ok := frameAt(pack, at)
			if !ok || !yield(place{number, at, length, pages}) {
				return
			}
			at += uint64(length)
		}
	}
}

// frameAt reads the head of a frame.
func frameAt(pack io.ReaderAt, at uint64) (length uint32, pages uint8, ok bool) {
	head := make([]byte, frameHead)
	if _, err := pack.ReadAt(head, int64(at)); err != nil {
		return 0, 0, false
	}
	n, packed := binary.BigEndian.Uint32(head[4:]), binary.BigEndian.Uint32(head[8:])
	if binary.BigEndian.Uint32(head) != frameMagic || n == 0 || n > framePages || packed > uint32(maxFrame) {
		return 0, 0, false
	}
	return frameHead + n*uint32(len(Hash{})) + packed, uint8(n), true
}

// manifest notes an image. Of two of one name the later counts: the other was removed.
func (f *finds) manifest(name string) error {
	data, err := os.ReadFile(f.s.path(name))
	if err != nil {
		return err
	}
	var number uint64
	if _, err := fmt.Sscanf(name, "manifests/%x.manifest", &number); err != nil || len(data) < sha256.Size {
		return nil //nolint:nilerr // it is no manifest
	}
	sum := [sha256.Size]byte(data[len(data)-sha256.Size:])
	m, err := parseManifest(data, sum)
	if err != nil || f.images[m.ID].number > number {
		return nil //nolint:nilerr // a damaged one does not say whose it is
	}
	r := imageRow{number: number, bytes: uint64(len(data)), sum: sum}
	for _, file := range m.Files {
		r.pages += uint64(len(file.Pages))
	}
	f.images[m.ID] = r
	return nil
}

// enter writes the rows.
func (f *finds) enter(tx *bolt.Tx) error {
	c := &change{tx: tx, live: make(map[uint64]int)}
	for number, r := range f.packs {
		if err := tx.Bucket(bucketPacks).Put(numberKey(number), r.encode()); err != nil {
			return err
		}
		c.live[number] = 0
	}
	for id, r := range f.images {
		if err := tx.Bucket(bucketImages).Put(id.key(), r.encode()); err != nil {
			return err
		}
	}
	refs, err := f.s.references(tx)
	if err != nil {
		return err
	}
	for h, n := range refs {
		at, found := f.places[h]
		if !found { // whoever reads the image will be told
			continue
		}
		c.live[at.pack]++
		if err := tx.Bucket(bucketPages).Put(h[:], pageRow{at, n}.encode()); err != nil {
			return err
		}
	}
	return c.settle()
}
