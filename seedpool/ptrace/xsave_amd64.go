package ptrace

import "math/bits"

// cpuid is the instruction, in xsave_amd64.s.
func cpuid(leaf, subleaf uint32) (eax, ebx, ecx, edx uint32)

// The CPU's leaf for XSAVE; components 0 and 1 (x87, SSE) and the header have fixed places in its first 576 bytes.
const (
	xsaveLeaf  = 0xd
	XSaveFixed = 576
)

// XSaveSize is the size in bytes of an XSAVE area in standard layout that holds the given components (bit n is component n), from the CPU itself.
func XSaveSize(components uint64) uint32 {
	size := uint32(XSaveFixed)
	for rest := components &^ 3; rest != 0; rest &= rest - 1 {
		bytes, offset, _, _ := cpuid(xsaveLeaf, uint32(bits.TrailingZeros64(rest)))
		size = max(size, offset+bytes)
	}
	return size
}
