package pages

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// change is one transaction. The caller of commit holds writing.
type change struct {
	tx *bolt.Tx
	// live is how many more pages of each pack have a row.
	live map[uint64]int
	// gone are files that nothing leads to any more when the change is on disk.
	gone []string
}

// commit makes a change, and then removes the files that it has freed.
func (s *Store) commit(do func(c *change) error) error {
	c := &change{live: make(map[uint64]int)}
	err := s.update(func(tx *bolt.Tx) error {
		c.tx = tx
		if err := do(c); err != nil {
			return err
		}
		return c.settle()
	})
	if err != nil {
		return err
	}
	s.point("committed")
	s.packs.Lock()
	defer s.packs.Unlock()
	for _, name := range c.gone {
		// What cannot be removed has no row: Open tries again.
		_ = remove(s.path(name))
		s.point("file removed")
	}
	return nil
}

// settle writes the rows of the packs whose pages have come or gone.
func (c *change) settle() error {
	packs := c.tx.Bucket(bucketPacks)
	for number, more := range c.live {
		r, _, err := row(c.tx, bucketPacks, numberKey(number), parsePackRow)
		if err != nil {
			return &DamageError{File: indexName, Err: fmt.Errorf("row of pack %d: %w", number, err)}
		}
		live := int(r.live) + more
		if live > 0 {
			r.live = uint64(live)
			err = packs.Put(numberKey(number), r.encode())
		} else {
			c.gone = append(c.gone, packName(number))
			err = packs.Delete(numberKey(number))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// add enters the packs of a batch.
func (c *change) add(b *batch) error {
	for _, w := range b.packs {
		if err := c.tx.Bucket(bucketPacks).Put(numberKey(w.number), packRow{bytes: w.bytes, pages: w.pages}.encode()); err != nil {
			return err
		}
		c.live[w.number] += 0
	}
	return nil
}

// refer adds a reference to a page: of the batch, if it is there, or else one that has a row.
func (c *change) refer(h Hash, b *batch) error {
	r, found, err := row(c.tx, bucketPages, h[:], parsePageRow)
	if err != nil {
		// How many images have it is not known. Too many does not matter: they are counted again.
		r, found = pageRow{refs: 1 << 16}, false
		if err := c.recount(); err != nil {
			return err
		}
	}
	if at, new := b.placed[h]; new {
		if found {
			c.live[r.pack]--
		}
		c.live[at.pack]++
		r.place = at
	} else if !found {
		return &DamageError{File: indexName, Err: fmt.Errorf("no row of page %s", h)}
	}
	r.refs++
	return c.tx.Bucket(bucketPages).Put(h[:], r.encode())
}

// release takes a reference to a page away.
func (c *change) release(h Hash) error {
	r, found, err := row(c.tx, bucketPages, h[:], parsePageRow)
	if err != nil || !found {
		return c.recount()
	}
	return c.set(h, r, r.refs-min(r.refs, 1))
}

// set changes how many references a page has; without one, it goes.
func (c *change) set(h Hash, r pageRow, refs uint32) error {
	if refs == 0 {
		c.live[r.pack]--
		return c.tx.Bucket(bucketPages).Delete(h[:])
	}
	r.refs = refs
	return c.tx.Bucket(bucketPages).Put(h[:], r.encode())
}

// move says that a page is in a batch now.
func (c *change) move(h Hash, at place) error {
	r, found, err := row(c.tx, bucketPages, h[:], parsePageRow)
	if err != nil || !found {
		return &DamageError{File: indexName, Err: fmt.Errorf("row of page %s: %w", h, errDamaged)}
	}
	c.live[r.pack]--
	c.live[at.pack]++
	r.place = at
	return c.tx.Bucket(bucketPages).Put(h[:], r.encode())
}

// recount has the next Collect count references again.
func (c *change) recount() error { return c.tx.Bucket(bucketMeta).Put(keyRecount, []byte{1}) }
