package pages

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/containerd/errdefs"
)

// ID names an image. Images of one tenant share pages.
type ID struct {
	Tenant, Name string
}

// String implements fmt.Stringer.
func (id ID) String() string { return id.Tenant + "/" + id.Name }

// maxName bounds the names of tenants, images and files, in bytes.
const maxName = 255

func checkName(what, name string) error {
	if name == "" || len(name) > maxName || strings.ContainsRune(name, 0) {
		return fmt.Errorf("%s %q: want 1 to %d bytes, none of them zero: %w", what, name, maxName, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (id ID) check() error {
	return errors.Join(checkName("tenant", id.Tenant), checkName("name of an image", id.Name))
}

// Manifest lists the pages of an image.
type Manifest struct {
	ID
	Files []File
}

// File is a part of an image.
type File struct {
	Name  string
	Pages []Hash
}

// A manifest is written as
//
//	magic u64
//	tenant, name, each with its length in front (all lengths and numbers are uvarints)
//	number of files; for each its name, the number of its runs, and for each run:
//	  number of pages × 2, + 1 when they are zeros; else their hashes
//	sha256 of all before
const manifestMagic = 0x7370726f75746d31 // "sproutm1"

// maxPages bounds the pages of a file of an image: 128 TiB, all that a process can have.
const maxPages = 1 << 47 / PageSize

// encode gives a manifest's bytes and their sum, which ends them.
func (m *Manifest) encode() (data []byte, sum [sha256.Size]byte) {
	b := binary.BigEndian.AppendUint64(nil, manifestMagic)
	b = appendString(appendString(b, m.Tenant), m.Name)
	b = binary.AppendUvarint(b, uint64(len(m.Files)))
	for _, f := range m.Files {
		b = appendString(b, f.Name)
		runs := runsOf(f.Pages)
		b = binary.AppendUvarint(b, uint64(len(runs)))
		for _, run := range runs {
			if run[0].IsZero() {
				b = binary.AppendUvarint(b, uint64(len(run))<<1|1)
				continue
			}
			b = binary.AppendUvarint(b, uint64(len(run))<<1)
			for _, h := range run {
				b = append(b, h[:]...)
			}
		}
	}
	sum = sha256.Sum256(b)
	return append(b, sum[:]...), sum
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// runsOf splits pages where zeros begin or end.
func runsOf(pages []Hash) (runs [][]Hash) {
	for first, next := 0, 0; first < len(pages); first = next {
		for next = first + 1; next < len(pages) && pages[next].IsZero() == pages[first].IsZero(); next++ {
		}
		runs = append(runs, pages[first:next])
	}
	return runs
}

// parseManifest reads what encode wrote, if it has this sum.
func parseManifest(data []byte, sum [sha256.Size]byte) (*Manifest, error) {
	body := len(data) - sha256.Size
	if body < 0 || [sha256.Size]byte(data[body:]) != sum || sha256.Sum256(data[:body]) != sum {
		return nil, errDamaged
	}
	return parseBody(data[:body])
}

// parseBody reads a manifest without its sum. Whatever it is given, it allocates little more than that; runs of zeros excepted, whose sum is bounded.
func parseBody(b []byte) (*Manifest, error) {
	r := &reader{b: b}
	if m := r.take(8); r.err == nil && binary.BigEndian.Uint64(m) != manifestMagic {
		return nil, errDamaged
	}
	m := &Manifest{ID: ID{Tenant: r.text(), Name: r.text()}}
	for n := r.number(); n > 0 && r.err == nil; n-- {
		f := File{Name: r.text()}
		for runs := r.number(); runs > 0 && r.err == nil; runs-- {
			f.Pages = r.run(f.Pages)
		}
		m.Files = append(m.Files, f)
	}
	if r.err == nil && len(r.b) > 0 {
		r.err = errDamaged
	}
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// reader takes a manifest apart; after the first error it gives nothing.
type reader struct {
	b     []byte
	zeros uint64
	err   error
}

func (r *reader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.b)) {
		r.err = errDamaged
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reader) number() uint64 {
	n, size := binary.Uvarint(r.b)
	if r.err != nil || size <= 0 {
		r.err = errDamaged
		return 0
	}
	r.b = r.b[size:]
	return n
}

func (r *reader) text() string { return string(r.take(r.number())) }

// maxZeros bounds the pages of zeros of one image, since they take no bytes of its manifest: 4 GiB of memory.
const maxZeros = 1 << 20

func (r *reader) run(pages []Hash) []Hash {
	n := r.number()
	zero := n&1 != 0
	n >>= 1
	if n == 0 || n > maxPages {
		r.err = errDamaged
		return nil
	}
	if zero {
		if r.zeros += n; r.zeros > maxZeros {
			r.err = errDamaged
			return nil
		}
		return append(pages, make([]Hash, n)...)
	}
	for b := r.take(n * uint64(len(Hash{}))); len(b) > 0; b = b[len(Hash{}):] {
		pages = append(pages, Hash(b))
	}
	return pages
}
