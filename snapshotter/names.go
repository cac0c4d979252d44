package snapshotter

import (
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
)

// LabelSeed on a snapshot names the seed whose layer lies directly below its upper. Its prefix makes containerd keep it.
const LabelSeed = "containerd.io/snapshot/sprout.seed"

const (
	labelRetired = "sprout.retired"

	prefixBake  = "sprout/bake/"
	prefixSeed  = "sprout/seed/"
	prefixSpare = "sprout/spare/"
)

func bakeKey(seed string) string      { return prefixBake + seed }
func seedKey(seed string) string      { return prefixSeed + seed }
func spareKey(instance string) string { return prefixSpare + instance }

// own says whether a row is ours and hidden from containerd.
func own(key string) bool {
	return strings.HasPrefix(key, prefixBake) || strings.HasPrefix(key, prefixSeed) || strings.HasPrefix(key, prefixSpare)
}

// checkSeen refuses our own keys on containerd's face, as if they did not exist.
func checkSeen(keys ...string) error {
	for _, key := range keys {
		if own(key) {
			return fmt.Errorf("snapshot %s: %w", key, errdefs.ErrNotFound)
		}
	}
	return nil
}

// checkID refuses an id of a seed or an instance that would make a key of another shape.
func checkID(id string) error {
	if id == "" || strings.Contains(id, "/") {
		return fmt.Errorf("id %q: %w", id, errdefs.ErrInvalidArgument)
	}
	return nil
}

// chainOf is the chain id in a layer's name, or nothing when the layer is not named by its content: then nobody can say what is in it.
func chainOf(key string) string {
	last := key[strings.LastIndexByte(key, '/')+1:]
	if !digest.DigestRegexpAnchored.MatchString(last) {
		return ""
	}
	return last
}

// namespaceOf is the containerd namespace in a key of containerd's.
func namespaceOf(key string) string {
	namespace, _, _ := strings.Cut(key, "/")
	return namespace
}
