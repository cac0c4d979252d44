package seedpool

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// schemaVersion is written to both databases; see the package comment for what it stands for.
const schemaVersion = "1"

// lockWait bounds the wait for the databases of a sproutd that has not quite ended.
const lockWait = 10 * time.Second

var (
	bucketMeta      = []byte("meta")
	bucketSeeds     = []byte("seeds")
	bucketPools     = []byte("pools")
	bucketInstances = []byte("instances")
	bucketSums      = []byte("sums")

	keyVersion = []byte("version")
)

// store is the index. What must outlive the machine is in state, synced with each change; what ends with it is in boot, which is written without a sync: it
// outlives a kill -9, and a claim waits for no disk.
type store struct {
	state *bolt.DB
	boot  *bolt.DB
}

// openStore opens both databases and makes what is missing. Databases of earlier boots are removed: their instances are gone, and a power cut may have torn
// them.
func openStore(p Paths, bootID string) (*store, error) {
	state, err := openDB(p.Database(), false, bucketSeeds, bucketPools)
	if isTorn(err) {
		// What it said of seeds is lost, and a seed is a cache entry; that containers start is worth more.
		aside := p.Database() + ".torn"
		if err := os.Rename(p.Database(), aside); err != nil {
			return nil, fmt.Errorf("set torn database aside: %w", err)
		}
		state, err = openDB(p.Database(), false, bucketSeeds, bucketPools)
	}
	if err != nil {
		return nil, err
	}
	s := &store{state: state}
	name := filepath.Join(p.RunDir, "instances-"+bootID+".db")
	s.boot, err = openDB(name, true, bucketInstances, bucketSums)
	if isTorn(err) {
		if err := os.Remove(name); err != nil {
			return nil, errors.Join(fmt.Errorf("remove torn database: %w", err), state.Close())
		}
		s.boot, err = openDB(name, true, bucketInstances, bucketSums)
	}
	if err != nil {
		return nil, errors.Join(err, state.Close())
	}
	if err := removeOtherBoots(p.RunDir, name); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func openDB(path string, noSync bool, buckets ...[]byte) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockWait, NoSync: noSync, NoFreelistSync: true, FreelistType: bolt.FreelistMapType})
	if err != nil {
		return nil, fmt.Errorf("open database %s: %w", path, err)
	}
	err = db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if have := meta.Get(keyVersion); have != nil && string(have) != schemaVersion {
			return fmt.Errorf("it has schema %s, this sproutd knows %s", have, schemaVersion)
		}
		if err := meta.Put(keyVersion, []byte(schemaVersion)); err != nil {
			return err
		}
		for _, name := range buckets {
			if _, err := tx.CreateBucketIfNotExists(name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open database %s: %w", path, err), db.Close())
	}
	return db, nil
}

// isTorn says that a file is no database any more.
func isTorn(err error) bool {
	return errors.Is(err, bolterrors.ErrInvalid) || errors.Is(err, bolterrors.ErrChecksum) || errors.Is(err, bolterrors.ErrVersionMismatch)
}

func removeOtherBoots(dir, keep string) error {
	files, err := filepath.Glob(filepath.Join(dir, "instances-*.db"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if file == keep {
			continue
		}
		if err := os.Remove(file); err != nil {
			return fmt.Errorf("remove database of an earlier boot: %w", err)
		}
	}
	return nil
}

func (s *store) close() error { return errors.Join(s.boot.Close(), s.state.Close()) }

// seeds are all seeds by id, and how many spares each is to have.
func (s *store) seeds() (seeds map[string]*api.SeedMeta, bounds map[string]spareBounds, err error) {
	seeds, bounds = make(map[string]*api.SeedMeta), make(map[string]spareBounds)
	err = s.state.View(func(tx *bolt.Tx) error {
		if err := each(tx, bucketSeeds, func(id string, m *api.SeedMeta) { seeds[id] = m }); err != nil {
			return err
		}
		return each(tx, bucketPools, func(id string, row *api.PoolRow) { bounds[id] = boundsOf(row) })
	})
	if err != nil {
		return nil, nil, fmt.Errorf("read seeds: %w", err)
	}
	return seeds, bounds, nil
}

// putSeed adds or changes the row of a seed.
func (s *store) putSeed(m *api.SeedMeta) error {
	err := s.state.Update(func(tx *bolt.Tx) error { return put(tx, bucketSeeds, m.Info.Id, m) })
	if err != nil {
		return fmt.Errorf("write seed %s: %w", m.Info.Id, err)
	}
	return nil
}

// editSeed changes what the row of a seed says. The rest of the row is left as it is: what is stale in memory is not in the row.
func (s *store) editSeed(id string, edit func(*api.SeedInfo)) error {
	err := s.state.Update(func(tx *bolt.Tx) error {
		m := new(api.SeedMeta)
		data := tx.Bucket(bucketSeeds).Get([]byte(id))
		if data == nil {
			return nil // it was removed
		}
		if err := proto.Unmarshal(data, m); err != nil {
			return err
		}
		edit(m.Info)
		return put(tx, bucketSeeds, id, m)
	})
	if err != nil {
		return fmt.Errorf("write seed %s: %w", id, err)
	}
	return nil
}

// replaceSeed makes a new seed count in the same step in which the old one of its name, if there is one, ceases to; the pool goes over.
func (s *store) replaceSeed(m *api.SeedMeta, old string, b spareBounds) error {
	err := s.state.Update(func(tx *bolt.Tx) error {
		if old != "" {
			if err := drop(tx, old, bucketSeeds, bucketPools); err != nil {
				return err
			}
		}
		if b != (spareBounds{}) {
			if err := put(tx, bucketPools, m.Info.Id, b.row()); err != nil {
				return err
			}
		}
		return put(tx, bucketSeeds, m.Info.Id, m)
	})
	if err != nil {
		return fmt.Errorf("write seed %s: %w", m.Info.Id, err)
	}
	return nil
}

// deleteSeed removes the rows of a seed and its pool.
func (s *store) deleteSeed(id string) error {
	err := s.state.Update(func(tx *bolt.Tx) error { return drop(tx, id, bucketSeeds, bucketPools) })
	if err != nil {
		return fmt.Errorf("delete seed %s: %w", id, err)
	}
	return nil
}

// putPool says how many spares a seed is to have.
func (s *store) putPool(seed string, b spareBounds) error {
	err := s.state.Update(func(tx *bolt.Tx) error {
		if b == (spareBounds{}) {
			return drop(tx, seed, bucketPools)
		}
		return put(tx, bucketPools, seed, b.row())
	})
	if err != nil {
		return fmt.Errorf("write pool of seed %s: %w", seed, err)
	}
	return nil
}

// instances are the rows of this boot.
func (s *store) instances() ([]*api.InstanceRow, error) {
	var rows []*api.InstanceRow
	err := s.boot.View(func(tx *bolt.Tx) error {
		return each(tx, bucketInstances, func(_ string, row *api.InstanceRow) { rows = append(rows, row) })
	})
	if err != nil {
		return nil, fmt.Errorf("read instances: %w", err)
	}
	return rows, nil
}

func (s *store) putInstance(row *api.InstanceRow) error {
	err := s.boot.Update(func(tx *bolt.Tx) error { return put(tx, bucketInstances, row.Instance.Id, row) })
	if err != nil {
		return fmt.Errorf("write instance %s: %w", row.Instance.Id, err)
	}
	return nil
}

func (s *store) deleteInstance(id string) error {
	err := s.boot.Update(func(tx *bolt.Tx) error { return drop(tx, id, bucketInstances) })
	if err != nil {
		return fmt.Errorf("delete instance %s: %w", id, err)
	}
	return nil
}

// checked is the identity of a seed's files when their sums were last right in this boot; empty: they have not been read yet.
func (s *store) checked(seed string) (identity string, err error) {
	err = s.boot.View(func(tx *bolt.Tx) error {
		identity = string(tx.Bucket(bucketSums).Get([]byte(seed)))
		return nil
	})
	return identity, err
}

// setChecked remembers it; an empty identity forgets it.
func (s *store) setChecked(seed, identity string) error {
	return s.boot.Update(func(tx *bolt.Tx) error {
		if identity == "" {
			return drop(tx, seed, bucketSums)
		}
		return tx.Bucket(bucketSums).Put([]byte(seed), []byte(identity))
	})
}

func put(tx *bolt.Tx, bucket []byte, key string, m proto.Message) error {
	data, err := proto.Marshal(m)
	if err != nil {
		return err
	}
	return tx.Bucket(bucket).Put([]byte(key), data)
}

func drop(tx *bolt.Tx, key string, buckets ...[]byte) error {
	for _, bucket := range buckets {
		if err := tx.Bucket(bucket).Delete([]byte(key)); err != nil {
			return err
		}
	}
	return nil
}

// each decodes every value of a bucket.
func each[T any, M interface {
	*T
	proto.Message
}](tx *bolt.Tx, bucket []byte, do func(key string, m M),
) error {
	return tx.Bucket(bucket).ForEach(func(k, v []byte) error {
		m := M(new(T))
		if err := proto.Unmarshal(v, m); err != nil {
			return fmt.Errorf("decode %s of %s: %w", k, bucket, err)
		}
		do(string(k), m)
		return nil
	})
}

// bootID names this boot of the kernel.
func bootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}
