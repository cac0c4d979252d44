package seedpool

import (
	"slices"
	"strings"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Parts of a key that sproutd adds to those of the spec.
const (
	// PartImage is the chain id of the image's unpacked layers.
	PartImage = "image"
	// The others describe the machine: they never differ between two containers, only between a seed and what it would be woken on.
	PartKernel = "kernel"
	PartCPU    = "cpu"
	PartCRIU   = "criu"
	PartSprout = "sprout"
)

const mountPrefix = "mount "

// hostParts are the parts that make a seed stale when they differ.
var hostParts = []string{PartKernel, PartCPU, PartCRIU, PartSprout}

// hostPartsFor are those of a mode: what is booted is at home on whatever machine it is booted on.
func hostPartsFor(mode string) []string {
	if mode == ModePrestart {
		return []string{PartSprout}
	}
	return hostParts
}

// Match gives the parts in which a container differs from a seed, sorted: names of parts, "env NAME", "mount /path", "mount order". None: the
// container may be started from the seed. What the seed declares late may differ.
func Match(seed *api.SeedInfo, key *api.Key) []string {
	have := seed.GetKey()
	lateMount := func(where string) bool { return slices.Contains(seed.GetLateMounts(), where) }
	differs := diff(nil, "", have.GetParts(), key.GetParts(), func(string) bool { return false })
	differs = diff(differs, "env ", have.GetEnv(), key.GetEnv(), func(name string) bool { return slices.Contains(seed.GetLateEnv(), name) })
	differs = diff(differs, mountPrefix, have.GetMounts(), key.GetMounts(), lateMount)
	if !slices.Equal(without(have.GetMountOrder(), lateMount), without(key.GetMountOrder(), lateMount)) && !hasMounts(differs) {
		differs = append(differs, mountPrefix+"order")
	}
	slices.Sort(differs)
	return differs
}

// diff adds the names under which two maps do not hold the same.
func diff(differs []string, prefix string, a, b map[string]string, ignored func(string) bool) []string {
	for name, value := range a {
		if other, ok := b[name]; (!ok || other != value) && !ignored(name) {
			differs = append(differs, prefix+name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok && !ignored(name) {
			differs = append(differs, prefix+name)
		}
	}
	return differs
}

func without(list []string, ignored func(string) bool) []string {
	return slices.DeleteFunc(slices.Clone(list), ignored)
}

// hasMounts says whether a mount differs already: the order then adds nothing that a person wants to read.
func hasMounts(differs []string) bool {
	return slices.ContainsFunc(differs, func(name string) bool { return strings.HasPrefix(name, mountPrefix) })
}
