package restore

import (
	"errors"
	"syscall"
	"testing"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
)

const anonymousPrivate = syscall.MAP_PRIVATE | syscall.MAP_ANONYMOUS

// anonymous is an entry that can be shared.
func anonymous(start, pages uint64) *vma.VmaEntry {
	return &vma.VmaEntry{
		Start: proto.Uint64(start), End: proto.Uint64(start + pages*pageSize), Pgoff: proto.Uint64(0), Shmid: proto.Uint64(0), Prot: proto.Uint32(3),
		Flags: proto.Uint32(anonymousPrivate), Status: proto.Uint32(statusRegular | statusAnonPrivate), Fd: proto.Int64(-1),
	}
}

func TestWhatIsNotPlainAnonymousMemoryIsNotShared(t *testing.T) {
	type change func(v *vma.VmaEntry)
	flag := func(f uint32) change { return func(v *vma.VmaEntry) { v.Flags = proto.Uint32(v.GetFlags() | f) } }
	status := func(s uint32) change { return func(v *vma.VmaEntry) { v.Status = proto.Uint32(v.GetStatus() | s) } }
	for name, tc := range map[string]struct {
		change change
		shared bool
	}{
		"plain":      {func(*vma.VmaEntry) {}, true},
		"heap":       {status(statusHeap), true},
		"no reserve": {flag(syscall.MAP_NORESERVE), true},
		"stack":      {flag(syscall.MAP_GROWSDOWN), false},
		"locked":     {flag(syscall.MAP_LOCKED), false},
		"huge":       {flag(syscall.MAP_HUGETLB), false},
		"droppable":  {flag(8), false},
		"shared":     {func(v *vma.VmaEntry) { v.Flags = proto.Uint32(syscall.MAP_SHARED | syscall.MAP_ANONYMOUS) }, false},
		"file":       {func(v *vma.VmaEntry) { v.Flags = proto.Uint32(syscall.MAP_PRIVATE) }, false},
		"vdso":       {status(1 << 3), false},
		"aio":        {status(1 << 13), false},
		"shadow":     {status(1 << 15), false},
		"wiped":      {func(v *vma.VmaEntry) { v.Madv = proto.Uint64(adviceWipeOnFork) }, false},
	} {
		v := anonymous(0x10000, 8)
		tc.change(v)
		before := proto.CloneOf(v)
		c, err := convert([]*vma.VmaEntry{v}, []pageRun{{0x10000, 8, 0}}, 7)
		if err != nil {
			t.Fatal(name, err)
		}
		if shared := len(c.shared) > 0; shared != tc.shared || shared == proto.Equal(v, before) || len(c.stored)+len(c.kept) != 1 {
			t.Errorf("%s: shared %v, entry %v", name, shared, v)
		}
	}
}

func TestGuardedMappingIsNotShared(t *testing.T) {
	guard := anonymous(0x12000, 1)
	guard.Status = proto.Uint32(statusGuard)
	c, err := convert([]*vma.VmaEntry{anonymous(0x10000, 8), anonymous(0x20000, 8), guard}, []pageRun{{0x10000, 8, 0}, {0x20000, 8, 8}}, 7)
	if err != nil || len(c.shared) != 1 || c.shared[0].start != 0x20000 {
		t.Errorf("shared %v, %v", c, err)
	}
}

func TestPagesAreStoredWhereTheirMappingIs(t *testing.T) {
	// Two neighbours, one that has a single page, and one far away; the run of pages goes over the first two.
	vmas := []*vma.VmaEntry{anonymous(0x10000, 8), anonymous(0x18000, 8), anonymous(0x20000, 8), anonymous(0x40000000, 16)}
	c, err := convert(vmas, []pageRun{{0x11000, 12, 0}, {0x20000, 1, 12}, {0x40002000, 4, 13}}, 7)
	if err != nil {
		t.Fatal(err)
	}
	stored := []pageRun{{0x11000, 7, 0}, {0x18000, 5, 7}, {0x40002000, 4, 13}}
	if diff := cmp.Diff(stored, c.stored, cmp.AllowUnexported(pageRun{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]pageRun{{0x20000, 1, 12}}, c.kept, cmp.AllowUnexported(pageRun{})); diff != "" {
		t.Error(diff)
	}
	if vmas[1].GetPgoff() != vmas[0].GetPgoff()+0x8000 || vmas[3].GetPgoff() <= vmas[1].GetPgoff()+0x8000 {
		t.Errorf("offsets %#x %#x %#x", vmas[0].GetPgoff(), vmas[1].GetPgoff(), vmas[3].GetPgoff())
	}
	at := 0
	for _, r := range c.stored {
		v := vmas[0]
		for _, next := range vmas {
			if next.GetStart() <= r.address {
				v = next
			}
		}
		if have, want := c.offset(&at, r.address), v.GetPgoff()+r.address-v.GetStart(); have != want {
			t.Errorf("page %#x is stored at %#x, mapped from %#x", r.address, have, want)
		}
	}
}

func TestNoMappingOfTheStoreCanBecomeAHugePage(t *testing.T) {
	var free uint64
	for _, address := range []uint64{0, 1, 511, 512, 513, 1 << 30, 1<<34 + 77} {
		at := place(free, address)
		if at <= free && free > 0 || (at-address)%hugePage == 0 || at >= free+2+hugePage {
			t.Errorf("address %d is at %d, free from %d", address, at, free)
		}
		free = at + 3
	}
}

func TestPagesOutsideOfMappingsAreRefused(t *testing.T) {
	for name, runs := range map[string][]pageRun{
		"before": {{0xf000, 1, 0}}, "behind": {{0x18000, 1, 0}}, "over the end": {{0x17000, 2, 0}},
	} {
		if _, err := convert([]*vma.VmaEntry{anonymous(0x10000, 8)}, runs, 7); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, vmas := range map[string][]*vma.VmaEntry{
		"overlap": {anonymous(0x10000, 8), anonymous(0x17000, 8)}, "crooked": {anonymous(0x10001, 8)}, "backwards": {anonymous(0x10000, 1<<52-1)},
	} {
		if _, err := convert(vmas, nil, 7); !errors.Is(err, ErrImage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// FuzzConvert has every page of whatever image either refused, or once in the image or once in the store, where a mapping shows it.
func FuzzConvert(f *testing.F) {
	f.Add(uint64(0x10000), uint64(8), uint64(0x18000), uint64(8), uint32(anonymousPrivate), uint64(0x11000), uint64(12))
	f.Add(uint64(0x10000), uint64(8), uint64(1<<47), uint64(1), uint32(2), uint64(0x10000), uint64(8))
	f.Fuzz(func(t *testing.T, start, pages, second, more uint64, flags uint32, address, n uint64) {
		if n == 0 || n > 1<<47/pageSize || address > 1<<47 || address%pageSize != 0 {
			return // readPagemap refuses it
		}
		other := anonymous(second, more)
		other.Flags = proto.Uint32(flags)
		vmas := []*vma.VmaEntry{anonymous(start, pages), other}
		c, err := convert(vmas, []pageRun{{address, n, 0}}, 7)
		if err != nil {
			if !errors.Is(err, ErrImage) {
				t.Error(err)
			}
			return
		}
		var sum uint64
		for _, r := range append(c.stored, c.kept...) {
			sum += r.pages
		}
		if sum != n {
			t.Errorf("%d pages of %d", sum, n)
		}
		at := 0
		for _, r := range c.stored {
			for _, v := range vmas {
				if r.address >= v.GetStart() && r.end() <= v.GetEnd() && v.GetStart() < addressSpace {
					if have := c.offset(&at, r.address); have != v.GetPgoff()+r.address-v.GetStart() {
						t.Errorf("page %#x at %#x", r.address, have)
					}
				}
			}
		}
	})
}
