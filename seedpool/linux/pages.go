package linux

import (
	"fmt"
	"os"
)

// PageRange is a part of a process's memory, up to To, in bytes.
type PageRange struct{ From, To uint64 }

// Pages lists the parts of a range of a process's memory in which it has pages, its own or a file's, in memory or swapped out. A page that it has only read while it was
// zero, or never touched, is none; one that must not be touched (MADV_GUARD_INSTALL) is taken for one. Linux 6.7 (PAGEMAP_SCAN).
func Pages(pid int, from, to uint64) (list []PageRange, err error) {
	f, err := os.Open(fmt.Sprintf("/proc/%d/pagemap", pid))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	regions := make([]pageRegion, 512)
	for from < to {
		n, walked, err := scanPages(f.Fd(), from, to, regions)
		if err != nil {
			return nil, &os.PathError{Op: "ioctl PAGEMAP_SCAN", Path: f.Name(), Err: err}
		}
		for _, r := range regions[:n] {
			list = append(list, PageRange{r.start, r.end})
		}
		from = walked
	}
	return list, nil
}
