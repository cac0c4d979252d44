package snapshotter

import "sync"

// index finds the key of a container's snapshot by its upper directory without reading every row. It holds containerd's active snapshots only.
type index struct {
	mu sync.Mutex
	// +checklocks:mu
	keys map[string]string // upper directory → key
	// +checklocks:mu
	uppers map[string]string // key → upper directory
}

func newIndex() *index {
	return &index{keys: map[string]string{}, uppers: map[string]string{}}
}

func (x *index) add(key, upper string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.keys[upper], x.uppers[key] = key, upper
}

func (x *index) drop(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	delete(x.keys, x.uppers[key])
	delete(x.uppers, key)
}

func (x *index) key(upper string) (string, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	key, ok := x.keys[upper]
	return key, ok
}
