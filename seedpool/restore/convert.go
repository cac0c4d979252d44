package restore

import (
	"fmt"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"google.golang.org/protobuf/proto"
)

// What CRIU says of a mapping (its image.h).
const (
	statusRegular     = 1 << 0
	statusKernels     = 1<<2 | 1<<3 | 1<<12 // vsyscall, vdso, vvar
	statusHeap        = 1 << 5
	statusFilePrivate = 1 << 6
	statusAnonPrivate = 1 << 9
	statusGuard       = 1 << 16
)

// Bits of a mapping's list of given advice (madvise(2)).
const adviceWipeOnFork = 1 << 18

// addressSpace is where the user's part of it ends.
const addressSpace = 1 << 47

// leastPages is how many pages in memory make it worth to share a mapping.
const leastPages = 4

// flagsShared are the flags of a mapping that can be shared. A droppable, locked, huge or growing one has another: its rules are not those of a file's mapping.
const flagsShared = syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS | syscall.MAP_NORESERVE

// mapping is one of a task's, and what the image has of it.
type mapping struct {
	*vma.VmaEntry
	own []pageRun
	// guarded: a part of it must not be touched.
	guarded bool
}

func (m mapping) pages() (n uint64) {
	for _, r := range m.own {
		n += r.pages
	}
	return n
}

func (m mapping) anonymous() bool {
	const anonymous = syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS
	return m.GetFlags()&anonymous == anonymous
}

// lazy says whether CRIU has the faults of a mapping wait for whoever serves memory.
func (m mapping) lazy() bool {
	const huge = 0x40000 // MAP_HUGETLB
	return m.anonymous() && m.GetFlags()&(syscall.MAP_LOCKED|huge) == 0 && m.GetStatus()&statusKernels == 0
}

// unshared says which mappings are restored with pages of their own, and why. All others become private mappings of a store.
var unshared = []struct {
	why string
	is  func(m mapping) bool
}{
	{"it has few pages", func(m mapping) bool { return m.pages() < leastPages }},
	{"it is not anonymous and private", func(m mapping) bool { return !m.anonymous() }},
	{"it grows down, is locked, huge, droppable or of a kind that is not known", func(m mapping) bool { return m.GetFlags()&^flagsShared != 0 }},
	{"it is the kernel's, a shadow stack or of a kind that is not known", func(m mapping) bool {
		return m.GetStatus()&^statusHeap != statusRegular|statusAnonPrivate
	}},
	{"a child is to find it empty, which is not known of files", func(m mapping) bool { return m.GetMadv()&adviceWipeOnFork != 0 }},
	{"it has guard pages, which older kernels do not put into mappings of files", func(m mapping) bool { return m.guarded }},
}

func (m mapping) whyUnshared() string {
	for _, rule := range unshared {
		if rule.is(m) {
			return rule.why
		}
	}
	return ""
}

// pageRun is a run of pages of an image: where they belong, and where they are in the pages file.
type pageRun struct {
	address, pages, from uint64
}

func (r pageRun) end() uint64 { return r.address + r.pages*pageSize }

// area is a stretch of a task's memory, in bytes.
type area struct {
	start, length uint64
}

// conversion is what becomes of one task's memory.
type conversion struct {
	// shared are the mappings of the store, and offsets where each of them begins in it.
	shared  []area
	offsets []uint64
	// private are mappings with pages of their own whose faults CRIU has wait.
	private []area
	// stored are the pages for the store, kept those that stay in the image.
	stored, kept []pageRun
}

// hugePage is how many pages a huge one has.
const hugePage = 512

// convert decides for each mapping of a task and changes those that are to be mappings of the store. file is the store's id in the image.
func convert(vmas []*vma.VmaEntry, runs []pageRun, file uint32) (*conversion, error) {
	list, err := mappings(vmas, slices.Clone(runs))
	if err != nil {
		return nil, err
	}
	c := new(conversion)
	// end is where the last mapping of the store ends, free where the store does.
	var end, free uint64
	for _, m := range list {
		length := m.GetEnd() - m.GetStart()
		if m.whyUnshared() != "" {
			c.kept = append(c.kept, m.own...)
			if m.lazy() {
				c.private = append(c.private, area{m.GetStart(), length})
			}
			continue
		}
		// Neighbours may become one mapping when both are protected alike: so in the store, too.
		if end != m.GetStart() {
			free = place(free, m.GetStart()/pageSize)
		}
		c.share(m, file, free*pageSize)
		end, free = m.GetEnd(), free+length/pageSize
	}
	return c, nil
}

// mappings are those of the app, in the order of addresses, each with its pages.
func mappings(vmas []*vma.VmaEntry, runs []pageRun) (list []mapping, err error) {
	var end uint64
	for _, v := range vmas {
		if v.GetStatus()&statusGuard != 0 || v.GetStart() >= addressSpace { // of the latter there is one, the kernel's
			continue
		}
		if v.GetStart() < end || v.GetEnd() <= v.GetStart() || v.GetEnd() > addressSpace || (v.GetStart()|v.GetEnd())%pageSize != 0 {
			return nil, fmt.Errorf("mapping %#x-%#x: %w", v.GetStart(), v.GetEnd(), ErrImage)
		}
		m := mapping{VmaEntry: v, guarded: slices.ContainsFunc(vmas, func(g *vma.VmaEntry) bool {
			return g.GetStatus()&statusGuard != 0 && g.GetStart() < v.GetEnd() && g.GetEnd() > v.GetStart()
		})}
		if m.own, runs, err = within(runs, v); err != nil {
			return nil, err
		}
		end = v.GetEnd()
		list = append(list, m)
	}
	if len(runs) > 0 {
		return nil, fmt.Errorf("pages at %#x belong to no mapping: %w", runs[0].address, ErrImage)
	}
	return list, nil
}

// place finds room in the store for a mapping, in pages. One page of it at least stays free in front, so that two mappings never become one that were not
// one before; and it never lies as a huge page has to: the kernel could put one in place of the store's pages, and would unmap them everywhere.
func place(free, address uint64) uint64 {
	free++
	return free + (address+1-free)%hugePage
}

// within takes the pages of a mapping off a list in the order of addresses, which it changes.
func within(runs []pageRun, v *vma.VmaEntry) (own, rest []pageRun, err error) {
	for len(runs) > 0 && runs[0].address < v.GetEnd() {
		r := runs[0]
		if r.address < v.GetStart() {
			return nil, nil, fmt.Errorf("pages at %#x belong to no mapping: %w", r.address, ErrImage)
		}
		if r.end() <= v.GetEnd() {
			own, runs = append(own, r), runs[1:]
			continue
		}
		n := (v.GetEnd() - r.address) / pageSize
		own = append(own, pageRun{r.address, n, r.from})
		runs[0] = pageRun{v.GetEnd(), r.pages - n, r.from + n}
		break
	}
	return own, runs, nil
}

// share makes a mapping one of the store.
func (c *conversion) share(m mapping, file uint32, offset uint64) {
	m.Flags = proto.Uint32(m.GetFlags() &^ syscall.MAP_ANONYMOUS)
	m.Status = proto.Uint32(m.GetStatus()&^statusAnonPrivate | statusFilePrivate)
	m.Shmid, m.Pgoff, m.Fdflags = proto.Uint64(uint64(file)), proto.Uint64(offset), proto.Uint32(syscall.O_RDONLY)
	c.shared = append(c.shared, area{m.GetStart(), m.GetEnd() - m.GetStart()})
	c.offsets = append(c.offsets, offset)
	c.stored = append(c.stored, m.own...)
}

// offset is where a page is in the store. Pages are asked for in the order of addresses: at is where the last one's mapping was.
func (c *conversion) offset(at *int, address uint64) uint64 {
	for address >= c.shared[*at].start+c.shared[*at].length {
		*at++
	}
	return c.offsets[*at] + address - c.shared[*at].start
}

// keptEntry is what a pagemap says of pages that CRIU is to load: without the flag that says that somebody else may.
func keptEntry(r pageRun) *pagemap.PagemapEntry {
	return &pagemap.PagemapEntry{
		Vaddr: proto.Uint64(r.address), CompatNrPages: proto.Uint32(uint32(r.pages)), NrPages: proto.Uint64(r.pages), Flags: proto.Uint32(pagePresent),
	}
}
