package pages

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

const (
	schemaVersion = "1"
	// lockWait bounds the wait for the index of a sproutd that has not quite ended.
	lockWait  = 10 * time.Second
	indexName = "index.db"
)

var (
	bucketMeta   = []byte("meta")
	bucketImages = []byte("images")
	bucketPages  = []byte("pages")
	bucketPacks  = []byte("packs")

	keyVersion = []byte("version")
	keyRecount = []byte("recount")
)

// place is where a frame is.
type place struct {
	pack, offset uint64
	length       uint32
	pages        uint8
}

// pageRow is where a page is, and how many images have it.
type pageRow struct {
	place
	refs uint32
}

const pageRowSize = 8 + 8 + 4 + 1 + 4

func (r pageRow) encode() []byte {
	b := make([]byte, 0, pageRowSize)
	b = binary.BigEndian.AppendUint64(b, r.pack)
	b = binary.BigEndian.AppendUint64(b, r.offset)
	b = binary.BigEndian.AppendUint32(b, r.length)
	return binary.BigEndian.AppendUint32(append(b, r.pages), r.refs)
}

func parsePageRow(b []byte) (r pageRow, err error) {
	if len(b) != pageRowSize {
		return r, errDamaged
	}
	r.pack, r.offset = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:])
	r.length, r.pages, r.refs = binary.BigEndian.Uint32(b[16:]), b[20], binary.BigEndian.Uint32(b[21:])
	if r.pages == 0 || int(r.length) < frameHead || int(r.length) > maxFrame {
		return r, errDamaged
	}
	return r, nil
}

// packRow is the size of a pack in bytes, how many pages it was written with, and how many of them have a row that leads to it.
type packRow struct {
	bytes, pages, live uint64
}

func (r packRow) encode() []byte { return appendNumbers(r.bytes, r.pages, r.live) }

func parsePackRow(b []byte) (r packRow, err error) {
	if len(b) != 3*8 {
		return r, errDamaged
	}
	return packRow{binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])}, nil
}

// imageRow is the manifest of an image, its size in bytes, its sum, and the number of the image's pages.
type imageRow struct {
	number, bytes, pages uint64
	sum                  [sha256.Size]byte
}

func (r imageRow) encode() []byte {
	return append(appendNumbers(r.number, r.bytes, r.pages), r.sum[:]...)
}

func parseImageRow(b []byte) (r imageRow, err error) {
	if len(b) != 3*8+sha256.Size {
		return r, errDamaged
	}
	r = imageRow{number: binary.BigEndian.Uint64(b), bytes: binary.BigEndian.Uint64(b[8:]), pages: binary.BigEndian.Uint64(b[16:])}
	copy(r.sum[:], b[24:])
	return r, nil
}

func appendNumbers(numbers ...uint64) (b []byte) {
	for _, n := range numbers {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func numberKey(n uint64) []byte { return appendNumbers(n) }

func parseNumber(key []byte) (uint64, error) {
	if len(key) != 8 {
		return 0, errDamaged
	}
	return binary.BigEndian.Uint64(key), nil
}

func (id ID) key() []byte { return []byte(id.Tenant + "\x00" + id.Name) }

func parseID(key []byte) (ID, error) {
	tenant, name, ok := strings.Cut(string(key), "\x00")
	if !ok {
		return ID{}, errDamaged
	}
	return ID{tenant, name}, nil
}

// row reads one row. found: there is one.
func row[R any](tx *bolt.Tx, bucket, key []byte, parse func([]byte) (R, error)) (r R, found bool, err error) {
	data := tx.Bucket(bucket).Get(key)
	if data == nil {
		return r, false, nil
	}
	r, err = parse(data)
	return r, true, err
}

// eachRow reads all rows of a bucket.
func eachRow[R any](tx *bolt.Tx, bucket []byte, parse func([]byte) (R, error), do func(key []byte, r R) error) error {
	return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		r, err := parse(v)
		if err != nil {
			return &DamageError{File: indexName, Err: fmt.Errorf("row %x of %s: %w", k, bucket, err)}
		}
		return do(k, r)
	})
}

// openIndex opens the index. The list of free pages is kept in it: to find them bbolt would walk through all of it on a goroutine of its own, whose panic over
// a damaged page nobody can recover from.
func openIndex(path string) (db *bolt.DB, err error) {
	err = guarded(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, FreelistType: bolt.FreelistMapType})
		return err
	})
	if _, system := errors.AsType[syscall.Errno](err); err != nil && !system && !errors.Is(err, bolterrors.ErrTimeout) {
		// bbolt has no type for all that it finds wrong with a file.
		return nil, &DamageError{File: indexName, Err: err}
	}
	if err != nil {
		return nil, err
	}
	err = guarded(func() error {
		return db.Update(func(tx *bolt.Tx) error {
			for _, name := range [][]byte{bucketMeta, bucketImages, bucketPages, bucketPacks} {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			meta := tx.Bucket(bucketMeta)
			if have := meta.Get(keyVersion); have != nil && string(have) != schemaVersion {
				return fmt.Errorf("it has schema %s, this sproutd knows %s", have, schemaVersion)
			}
			return meta.Put(keyVersion, []byte(schemaVersion))
		})
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// guarded does something with the index. bbolt has no sums of what it keeps: it panics over a page that makes no sense, or follows it out of the mapped file.
func guarded(do func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = &DamageError{File: indexName, Err: fmt.Errorf("%w: %v", errDamaged, r)}
		}
	}()
	return do()
}

func (s *Store) view(do func(tx *bolt.Tx) error) error {
	return guarded(func() error { return s.index.View(do) })
}

func (s *Store) update(do func(tx *bolt.Tx) error) error {
	return guarded(func() error { return s.index.Update(do) })
}
