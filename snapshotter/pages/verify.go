package pages

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"

	bolt "go.etcd.io/bbolt"
)

// Verify reads all of an image again, and compares every page with its hash. problems are *DamageError; err means that it could not be found out.
func (s *Store) Verify(ctx context.Context, id ID) (problems []error, err error) {
	i, err := s.Image(id)
	if err != nil && isDamage(err) {
		return []error{err}, nil
	}
	if err != nil {
		return nil, err
	}
	defer i.Close()
	// Each frame once, with the first place of each of its pages in the image.
	first, frames := make(map[Hash]string), make(map[place][]Hash)
	for _, f := range i.Files {
		for n, h := range f.Pages {
			if first[h] == "" && !h.IsZero() {
				first[h] = pageName(f.Name, n)
				frames[i.places[h]] = append(frames[i.places[h]], h)
			}
		}
	}
	buffer, hasher := buffers.Get().(*[2][]byte), newHasher(id.Tenant)
	defer buffers.Put(buffer)
	for _, at := range inOrder(frames) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		want := frames[at]
		f, data, err := i.frame(at, buffer)
		if err != nil {
			if e, ok := errors.AsType[*DamageError](err); ok {
				e.Page = first[want[0]]
			}
			problems = append(problems, err)
			continue
		}
		slot := 0
		for _, h := range want {
			if slot = f.slot(h, max(slot, 0)); slot < 0 || hasher.hash(data[slot*PageSize:(slot+1)*PageSize]) != h {
				problems = append(problems, &DamageError{File: packName(at.pack), Offset: at.offset, Page: first[h], Err: errDamaged})
			}
		}
	}
	return problems, nil
}

// inOrder are frames in the order in which they lie on disk.
func inOrder[V any](frames map[place]V) []place {
	return slices.SortedFunc(maps.Keys(frames), func(a, b place) int {
		return cmp.Or(cmp.Compare(a.pack, b.pack), cmp.Compare(a.offset, b.offset))
	})
}

// VerifyAll does so with every image, and compares the index with itself, with the manifests and with the files.
func (s *Store) VerifyAll(ctx context.Context) (problems []error, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	ids, err := s.Images()
	if err != nil {
		if isDamage(err) {
			return []error{err}, nil
		}
		return nil, err
	}
	for _, id := range ids {
		some, err := s.Verify(ctx, id)
		if err != nil {
			return nil, err
		}
		problems = append(problems, some...)
	}
	err = s.view(func(tx *bolt.Tx) error {
		return errors.Join(s.verifyReferences(tx, &problems), s.verifyPacks(tx, &problems))
	})
	if err != nil && isDamage(err) {
		return append(problems, err), nil
	}
	return problems, err
}

// verifyReferences counts again.
func (s *Store) verifyReferences(tx *bolt.Tx, problems *[]error) error {
	refs, err := s.references(tx)
	if err != nil {
		return err
	}
	recount := tx.Bucket(bucketMeta).Get(keyRecount) != nil
	return eachRow(tx, bucketPages, parsePageRow, func(key []byte, r pageRow) error {
		if len(key) != len(Hash{}) || !recount && refs[Hash(key)] != r.refs {
			*problems = append(*problems, &DamageError{File: indexName, Err: fmt.Errorf("page %x: its references are not %d", key, r.refs)})
		}
		return nil
	})
}

// verifyPacks compares rows of packs with their files, and with the rows that lead to them; and looks for files without a row.
func (s *Store) verifyPacks(tx *bolt.Tx, problems *[]error) error {
	live, rows := make(map[uint64]uint64), make(map[string]bool)
	err := eachRow(tx, bucketPages, parsePageRow, func(_ []byte, r pageRow) error { live[r.pack]++; return nil })
	if err != nil {
		return err
	}
	err = eachRow(tx, bucketPacks, parsePackRow, func(key []byte, r packRow) error {
		n, err := parseNumber(key)
		if err != nil {
			return err
		}
		rows[packName(n)] = true
		info, err := os.Stat(s.path(packName(n)))
		if err != nil || uint64(info.Size()) != r.bytes || live[n] != r.live {
			why := fmt.Errorf("%w: want %d bytes and %d live pages, have %d pages (%v)", errDamaged, r.bytes, r.live, live[n], err)
			*problems = append(*problems, &DamageError{File: packName(n), Err: why})
		}
		return nil
	})
	if err != nil {
		return err
	}
	err = eachRow(tx, bucketImages, parseImageRow, func(_ []byte, r imageRow) error { rows[manifestName(r.number)] = true; return nil })
	if err != nil {
		return err
	}
	strays, err := s.strays(rows)
	for _, name := range strays {
		*problems = append(*problems, &DamageError{File: name, Err: errors.New("nothing leads to it")})
	}
	return err
}
