package pages

import (
	"fmt"

	bolt "go.etcd.io/bbolt"
)

// Usage is what an image takes.
type Usage struct {
	// Pages are all that it has, Zeros those of zeros.
	Pages, Zeros uint64
	// Unique are the different pages that no other image has, Shared those that another has, too.
	Unique, Shared uint64
	// UniqueBytes and SharedBytes are what these take on disk, compressed.
	UniqueBytes, SharedBytes uint64
}

// Usage is that of one image.
func (s *Store) Usage(id ID) (u Usage, err error) {
	s.packs.RLock()
	defer s.packs.RUnlock()
	m, err := s.manifest(id)
	if err != nil {
		return u, fmt.Errorf("measure pages of %s: %w", id, err)
	}
	for _, f := range m.Files {
		u.Pages += uint64(len(f.Pages))
		for _, h := range f.Pages {
			if h.IsZero() {
				u.Zeros++
			}
		}
	}
	// Sums of parts of frames: rounded only once.
	var unique, shared float64
	err = s.view(func(tx *bolt.Tx) error {
		for _, h := range m.distinct() {
			r, found, err := row(tx, bucketPages, h[:], parsePageRow)
			if err != nil || !found {
				return &DamageError{File: indexName, Err: fmt.Errorf("row of page %s: %w", h, errDamaged)}
			}
			bytes := float64(r.length) / float64(r.pages)
			if r.refs > 1 {
				u.Shared, shared = u.Shared+1, shared+bytes
			} else {
				u.Unique, unique = u.Unique+1, unique+bytes
			}
		}
		return nil
	})
	if err != nil {
		return u, fmt.Errorf("measure pages of %s: %w", id, err)
	}
	u.UniqueBytes, u.SharedBytes = uint64(unique), uint64(shared)
	return u, nil
}

// Total is what the whole store takes.
type Total struct {
	Images int
	// Pages are those of all images, Stored the different ones of them that are not of zeros, Dead those on disk that no image has any more.
	Pages, Stored, Dead uint64
	// Bytes is the size of packs and manifests.
	Bytes uint64
}

// Total adds up.
func (s *Store) Total() (t Total, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		if t.Bytes, err = usedBytes(tx); err != nil {
			return err
		}
		err := eachRow(tx, bucketPacks, parsePackRow, func(_ []byte, r packRow) error {
			t.Stored, t.Dead = t.Stored+r.live, t.Dead+r.pages-min(r.live, r.pages)
			return nil
		})
		if err != nil {
			return err
		}
		return eachRow(tx, bucketImages, parseImageRow, func(_ []byte, r imageRow) error {
			t.Images, t.Pages = t.Images+1, t.Pages+r.pages
			return nil
		})
	})
	if err != nil {
		return t, fmt.Errorf("measure page store: %w", err)
	}
	return t, nil
}

// Images lists all.
func (s *Store) Images() (ids []ID, err error) {
	err = s.view(func(tx *bolt.Tx) error {
		return eachRow(tx, bucketImages, parseImageRow, func(key []byte, _ imageRow) error {
			id, err := parseID(key)
			ids = append(ids, id)
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	return ids, nil
}
