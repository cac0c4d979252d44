package linux

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// pagemapScan is the request PAGEMAP_SCAN of a process's pagemap, include/uapi/linux/fs.h.
const pagemapScan = 0xc0606610

// Categories of pages that PAGEMAP_SCAN knows.
const (
	pageIsPresent = 1 << 3
	pageIsSwapped = 1 << 4
	pageIsPfnzero = 1 << 5
)

// pageRegion is what the kernel fills in. Nothing of the categories is asked for.
type pageRegion struct{ start, end, _ uint64 }

type pagemapScanArg struct {
	size, flags, start, end, walked         uint64
	regions                                 *pageRegion
	room, most, inverted, mask, anyOf, want uint64
}

// scanPages fills in regions of a range of which each page is in memory, or swapped out, and is not the kernel's page of zeros. It says how many there are, and where
// it has ended.
func scanPages(pagemap uintptr, start, end uint64, regions []pageRegion) (n int, walked uint64, err error) {
	arg := pagemapScanArg{
		start: start, end: end, regions: &regions[0], room: uint64(len(regions)),
		inverted: pageIsPfnzero, mask: pageIsPfnzero, anyOf: pageIsPresent | pageIsSwapped,
	}
	arg.size = uint64(unsafe.Sizeof(arg))
	got, _, errno := unix.Syscall(unix.SYS_IOCTL, pagemap, pagemapScan, uintptr(unsafe.Pointer(&arg)))
	return int(got), arg.walked, asError(errno)
}
