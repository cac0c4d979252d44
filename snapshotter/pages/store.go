package pages

import (
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	bolt "go.etcd.io/bbolt"
)

// Options of a store.
type Options struct {
	// Quota bounds packs and manifests together, in bytes; 0: no bound. The index is not counted, nor what Collect writes before it removes more.
	Quota uint64
}

// Store is a page store. All methods may be called at the same time.
type Store struct {
	dir   string
	quota uint64
	index *bolt.DB
	codec *codec
	point func(name string) // called at the points at which a crash is tested

	writing sync.Mutex
	next    uint64 // +checklocks:writing: the number of the next file

	packs sync.RWMutex
}

// Open opens the store below dir, which it makes when it does not exist, and removes what a crash has cut. One process at a time has a store open.
func Open(dir string, o Options) (*Store, error) {
	return open(dir, o, func(string) {})
}

func open(dir string, o Options, point func(string)) (_ *Store, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("open page store %s: %w", dir, err)
		}
	}()
	for _, d := range []string{"packs", "manifests"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o700); err != nil {
			return nil, err
		}
	}
	if o.Quota == 0 {
		o.Quota = math.MaxUint64
	}
	s := &Store{dir: dir, quota: o.Quota, point: point}
	if s.codec, err = newCodec(); err != nil {
		return nil, err
	}
	if err := s.openOrRebuild(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// Close waits for what is being read or written. Images that are open can still be filled from; nothing new can be opened.
func (s *Store) Close() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.index == nil {
		return nil
	}
	return s.index.Close()
}

// number is one that no file has. The caller holds writing.
func (s *Store) number() uint64 {
	s.next++
	return s.next
}

// recover removes files that no row leads to, and finds the number of the next. When a row leads to a file that is not there, the index may be damaged, and
// what seems to be nobody's may be what it has lost: then nothing is removed.
func (s *Store) recover() error {
	rows := make(map[string]bool)
	err := s.view(func(tx *bolt.Tx) error { return s.rowsOfFiles(tx, rows) })
	if err != nil {
		return err
	}
	strays, err := s.strays(rows)
	if err != nil || len(strays) == 0 {
		return err
	}
	for name := range rows {
		if _, err := os.Lstat(s.path(name)); errors.Is(err, os.ErrNotExist) {
			return nil
		}
	}
	for _, name := range strays {
		if err := os.Remove(s.path(name)); err != nil {
			return err
		}
		s.point("stray removed")
	}
	return nil
}

// rowsOfFiles lists the files that rows lead to. The caller holds writing, or has just opened the store.
func (s *Store) rowsOfFiles(tx *bolt.Tx, rows map[string]bool) error {
	return errors.Join(
		eachRow(tx, bucketPacks, parsePackRow, func(key []byte, _ packRow) error {
			n, err := parseNumber(key)
			rows[packName(n)], s.next = true, max(s.next, n)
			return err
		}),
		eachRow(tx, bucketImages, parseImageRow, func(_ []byte, r imageRow) error {
			rows[manifestName(r.number)], s.next = true, max(s.next, r.number)
			return nil
		}))
}

// strays are the store's files that are not among those that have a row. Their numbers are not given away again.
func (s *Store) strays(rows map[string]bool) (names []string, err error) {
	for dir, suffix := range map[string]string{"packs": ".pack", "manifests": ".manifest"} {
		entries, err := os.ReadDir(s.path(dir))
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			name := entry.Name()
			digits, ours := strings.CutSuffix(strings.TrimSuffix(name, suffixNew), suffix)
			n, err := strconv.ParseUint(digits, 16, 64)
			if err != nil || !ours || rows[dir+"/"+name] {
				continue
			}
			s.next = max(s.next, n)
			names = append(names, dir+"/"+name)
		}
	}
	return names, nil
}
