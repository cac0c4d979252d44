package pages

import (
	"crypto/sha256"
	"encoding/hex"
)

// PageSize is the size of a page, in bytes.
const PageSize = 4096

// Hash is what a page is known by: the sha256 of its tenant's hash and its bytes. The zero value stands for the page of zeros, of any tenant.
type Hash [sha256.Size]byte

// String implements fmt.Stringer.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// IsZero says that the page is one of zeros.
func (h Hash) IsZero() bool { return h == Hash{} }

var zeroPage [PageSize]byte

// hasher gives the hashes of one tenant's pages.
type hasher struct {
	buffer [sha256.Size + PageSize]byte
}

func newHasher(tenant string) *hasher {
	h := new(hasher)
	sum := sha256.Sum256([]byte(tenant))
	copy(h.buffer[:], sum[:])
	return h
}

// hash is that of a page.
func (h *hasher) hash(page []byte) Hash {
	if [PageSize]byte(page) == zeroPage {
		return Hash{}
	}
	copy(h.buffer[sha256.Size:], page)
	return sha256.Sum256(h.buffer[:])
}
