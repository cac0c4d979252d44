package pages

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Remove removes an image, and the packs that no other image has pages in. There is none: no error.
func (s *Store) Remove(_ context.Context, id ID) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	err := s.commit(func(c *change) error {
		images := c.tx.Bucket(bucketImages)
		data := images.Get(id.key())
		if data == nil {
			return nil
		}
		r, err := parseImageRow(data)
		if err == nil {
			c.gone = append(c.gone, manifestName(r.number))
			err = s.release(c, id)
		}
		if err != nil && !isDamage(err) {
			return err
		}
		if err != nil { // which pages it had is not known
			if err := c.recount(); err != nil {
				return err
			}
		}
		return images.Delete(id.key())
	})
	if err != nil {
		return fmt.Errorf("remove pages of %s: %w", id, err)
	}
	return nil
}

func isDamage(err error) bool {
	_, is := errors.AsType[*DamageError](err)
	return is || errors.Is(err, errDamaged)
}

func (s *Store) release(c *change, id ID) error {
	m, err := s.readManifest(c.tx, id)
	if err != nil {
		return err
	}
	for _, h := range m.distinct() {
		if err := c.release(h); err != nil {
			return err
		}
	}
	return nil
}

// Collected says what Collect has done.
type Collected struct {
	// Packs were rewritten or removed. Moved is what had to be written for it, Freed how much smaller the store is, in bytes.
	Packs        int
	Moved, Freed uint64
}

// Collect frees the space of pages that no image has, in packs in which most pages are of that kind. Pages that are damaged stay where they are; the error
// says which, and the rest is done.
func (s *Store) Collect(ctx context.Context) (done Collected, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("collect pages: %w", err)
		}
	}()
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.countAgain(); err != nil {
		return done, err
	}
	var before, after uint64
	victims, before, err := s.victims()
	if err != nil || len(victims) == 0 {
		return done, err
	}
	b := s.newBatch(math.MaxUint64)
	damage, err := s.copyTo(ctx, b, victims)
	if err == nil {
		err = b.seal()
	}
	if err != nil {
		return done, errors.Join(err, b.abort())
	}
	s.point("pages copied")
	err = s.commit(func(c *change) error {
		if err := c.add(b); err != nil {
			return err
		}
		for h, at := range b.placed {
			if err := c.move(h, at); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return done, err
	}
	err = s.view(func(tx *bolt.Tx) (err error) {
		after, err = usedBytes(tx)
		return err
	})
	return Collected{Packs: len(victims), Moved: b.written, Freed: before - min(before, after)}, errors.Join(err, damage)
}

// countAgain counts the references of every page, when they may be too high.
func (s *Store) countAgain() error {
	again := false
	err := s.view(func(tx *bolt.Tx) error {
		again = tx.Bucket(bucketMeta).Get(keyRecount) != nil
		return nil
	})
	if err != nil || !again {
		return err
	}
	return s.commit(func(c *change) error {
		refs, err := s.references(c.tx)
		if err != nil {
			return err
		}
		// A bucket must not change while it is walked through.
		wrong := make(map[Hash]pageRow)
		err = eachRow(c.tx, bucketPages, parsePageRow, func(key []byte, r pageRow) error {
			if refs[Hash(key)] != r.refs {
				wrong[Hash(key)] = r
			}
			return nil
		})
		if err != nil {
			return err
		}
		for h, r := range wrong {
			if err := c.set(h, r, refs[h]); err != nil {
				return err
			}
		}
		return c.tx.Bucket(bucketMeta).Delete(keyRecount)
	})
}

// references counts in how many images each page is.
func (s *Store) references(tx *bolt.Tx) (map[Hash]uint32, error) {
	refs := make(map[Hash]uint32)
	return refs, eachRow(tx, bucketImages, parseImageRow, func(key []byte, _ imageRow) error {
		id, err := parseID(key)
		if err != nil {
			return err
		}
		m, err := s.readManifest(tx, id)
		if err != nil {
			return fmt.Errorf("read manifest of %s: %w", id, err)
		}
		for _, h := range m.distinct() {
			refs[h]++
		}
		return nil
	})
}

// victims are the frames with live pages, and those pages, of every pack of which less than half is alive.
func (s *Store) victims() (frames map[uint64]map[place][]Hash, used uint64, err error) {
	frames = make(map[uint64]map[place][]Hash)
	err = s.view(func(tx *bolt.Tx) error {
		if used, err = usedBytes(tx); err != nil {
			return err
		}
		err := eachRow(tx, bucketPacks, parsePackRow, func(key []byte, r packRow) error {
			n, err := parseNumber(key)
			if r.live*2 < r.pages {
				frames[n] = make(map[place][]Hash)
			}
			return err
		})
		if err != nil || len(frames) == 0 {
			return err
		}
		return eachRow(tx, bucketPages, parsePageRow, func(key []byte, r pageRow) error {
			if in := frames[r.pack]; in != nil && len(key) == len(Hash{}) {
				in[r.place] = append(in[r.place], Hash(key))
			}
			return nil
		})
	})
	return frames, used, err
}

// copyTo copies the live pages of packs into a batch. damage says which could not be.
func (s *Store) copyTo(ctx context.Context, b *batch, victims map[uint64]map[place][]Hash) (damage, err error) {
	packs := openPacks{store: s}
	defer packs.close()
	buffer := make([]byte, framePages*PageSize)
	for _, frames := range victims {
		for _, at := range inOrder(frames) {
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			f, err := packs.frame(at)
			var data []byte
			if err == nil {
				data, err = s.codec.pages(f, buffer)
			}
			if err != nil {
				damage = errors.Join(damage, err)
				continue
			}
			for slot, h := range f.hashes {
				if !slices.Contains(frames[at], h) {
					continue
				}
				if err := b.add(h, data[slot*PageSize:(slot+1)*PageSize]); err != nil {
					return nil, err
				}
			}
		}
	}
	return damage, nil
}
