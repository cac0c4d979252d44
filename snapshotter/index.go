package snapshotter

import (
	"strings"
	"sync"
)

// index finds a container's snapshot without reading every row. It holds containerd's active snapshots only.
type index struct {
	mu sync.Mutex
	// +checklocks:mu
	byUpper map[string]indexed // by upper directory
	// +checklocks:mu
	byKey map[string]indexed
	// +checklocks:mu
	byName map[string]indexed // by what containerd's client called it: namespace/name
}

type indexed struct{ key, upper, chain string }

// name is the client's: a key of containerd's is namespace/number/name, and a name that was used before has another number.
func (x indexed) name() string {
	namespace, rest, _ := strings.Cut(x.key, "/")
	_, name, _ := strings.Cut(rest, "/")
	return nameIn(namespace, name)
}

func nameIn(namespace, name string) string { return namespace + "/" + name }

func newIndex() *index {
	return &index{byUpper: map[string]indexed{}, byKey: map[string]indexed{}, byName: map[string]indexed{}}
}

// add enters a snapshot with its upper directory and the chain id of the image that it stands on.
func (x *index) add(key, upper, chain string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	one := indexed{key, upper, chain}
	x.byUpper[upper], x.byKey[key], x.byName[one.name()] = one, one, one
}

func (x *index) drop(key string) {
	x.mu.Lock()
	defer x.mu.Unlock()
	one := x.byKey[key]
	delete(x.byKey, key)
	delete(x.byUpper, one.upper)
	// containerd removes later than it forgets: the name may be another's by now.
	if x.byName[one.name()] == one {
		delete(x.byName, one.name())
	}
}

func (x *index) key(upper string) (string, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	one, ok := x.byUpper[upper]
	return one.key, ok
}

func (x *index) named(namespace, name string) (indexed, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	one, ok := x.byName[nameIn(namespace, name)]
	return one, ok
}
