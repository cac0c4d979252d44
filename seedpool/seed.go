package seedpool

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"fmt"
	"path"
	"regexp"
	"time"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Modes of a seed.
const (
	// ModeClone: all instances wake from one image, and share its random state.
	ModeClone = "clone"
	// ModePrestart: each spare was booted on its own. It is what a seed is unless somebody has asked for the other.
	ModePrestart = "prestart"
)

// isBooted says whether a seed's spares are booted.
func isBooted(info *api.SeedInfo) bool { return info.Mode == ModePrestart }

var (
	namePattern      = regexp.MustCompile(`^[A-Za-z0-9]+([._-][A-Za-z0-9]+)*$`)
	namespacePattern = regexp.MustCompile(`^[A-Za-z0-9]+([._-]+[A-Za-z0-9]+)*$`)
	idPattern        = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)
)

const maxName = 64

// idEncoding keeps the order of what it encodes and is safe in file names.
var idEncoding = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID names a seed or an instance: 18 characters, sorted by the time at which it was made.
func newID() string {
	var raw [16]byte
	binary.BigEndian.PutUint64(raw[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(raw[6:])
	return idEncoding.EncodeToString(raw[:])[:18]
}

// madeAt is when an id was made.
func madeAt(id string) time.Time {
	raw, err := idEncoding.DecodeString(id[:min(16, len(id))]) // whole bytes
	if err != nil || len(raw) < 8 {
		return time.Time{}
	}
	return time.UnixMilli(int64(binary.BigEndian.Uint64(raw) >> 16))
}

// checkName refuses what cannot be the name of a seed.
func checkName(name string) error {
	if len(name) > maxName || !namePattern.MatchString(name) {
		return fail(errdefs.ErrInvalidArgument, "seed name %q: at most %d letters and digits with single dots, dashes and underscores between them", name, maxName)
	}
	return nil
}

// checkNamespace refuses what containerd does not accept as a namespace: it becomes a part of paths.
func checkNamespace(namespace string) error {
	if len(namespace) > 76 || !namespacePattern.MatchString(namespace) {
		return fail(errdefs.ErrInvalidArgument, "containerd namespace %q: not a name that containerd takes", namespace)
	}
	return nil
}

// checkScope is checkNamespace for what may be empty, which stands for all namespaces.
func checkScope(namespace string) error {
	if namespace == "" {
		return nil
	}
	return checkNamespace(namespace)
}

// checkContainer refuses what containerd does not accept as the id of a container in a namespace.
func checkContainer(namespace, id string) error {
	if err := checkNamespace(namespace); err != nil {
		return err
	}
	if len(id) > 76 || !idPattern.MatchString(id) {
		return fail(errdefs.ErrInvalidArgument, "container id %q: not an id that containerd takes", id)
	}
	return nil
}

// cleanLateMounts gives the destinations as they appear in keys. What the kernel provides, and the root itself, cannot come late: the app has it open.
func cleanLateMounts(mounts []string) ([]string, error) {
	var clean []string
	for _, m := range mounts {
		c := path.Clean(m)
		if !path.IsAbs(m) || c == "/" || c == "/proc" || c == "/sys" || c == "/dev" {
			return nil, fail(errdefs.ErrInvalidArgument, "late mount %q: want the absolute path of a volume", m)
		}
		clean = append(clean, c)
	}
	return clean, nil
}

// staleAgainst names what has changed on the machine since the seed was baked; empty: nothing.
func staleAgainst(m *api.SeedMeta, host map[string]string) string {
	for _, part := range hostPartsFor(m.GetInfo().GetMode()) {
		if have := m.GetInfo().GetKey().GetParts()[part]; have != host[part] {
			return fmt.Sprintf("%s has changed since it was baked", part)
		}
	}
	return ""
}
