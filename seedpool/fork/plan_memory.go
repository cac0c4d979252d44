package fork

import (
	"fmt"
	"strings"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	mapShared, mapFixed        = 1, 0x10
	protRead, protWrite        = 1, 2
	protExec                   = 4
	lockOnFault                = 1
	openReadWrite              = 2
	adviceFork                 = 11      // MADV_DOFORK
	copyLimit                  = 1 << 30 // write(2) takes no more at once
	sharedMemory               = "sprout-shared"
	memfdUsual          uint64 = 0
)

// planMemory: fork(2) has copied all private memory. Shared anonymous memory is still the template's: it is written to a new file of the clone's, which is
// then mapped in its place. A file that is shared for writing is that of the clone's own root.
func (p *planner) planMemory() error {
	p.main.add(p.lap(2))
	sizes, order := map[uint64]uint64{}, []uint64(nil)
	for _, v := range p.process.VMAs {
		if !v.sharedAnonymous() {
			continue
		}
		if v.End-v.Start > copyLimit {
			return fmt.Errorf("shared memory %x-%x is too large", v.Start, v.End)
		}
		if sizes[v.Inode] == 0 {
			order = append(order, v.Inode)
		}
		sizes[v.Inode] = max(sizes[v.Inode], v.Offset+v.End-v.Start)
	}
	for _, inode := range order {
		p.planShared(inode, sizes[inode])
	}
	p.planSegments()
	for _, v := range p.process.VMAs {
		if !v.sharedFile() {
			continue
		}
		p.main.add(call("open "+v.Path, sysOpenat, here, p.string(v.Path), openReadWrite).to(p.temp),
			call("map it", sysMmap, v.Start, v.End-v.Start, protection(v.Perms), mapShared|mapFixed, p.temp, v.Offset).with(indirect(4)),
			call("close it", sysClose, p.temp).with(indirect(0)))
	}
	for _, v := range p.process.VMAs {
		if v.has("lo") {
			flags := uint64(0)
			if v.has("lf") {
				flags = lockOnFault
			}
			p.main.add(call("lock memory", sysMlock2, v.Start, v.End-v.Start, flags))
		}
	}
	for which, i := range p.process.Intervals {
		if i != (Interval{}) {
			p.main.add(call("set an interval timer", sysSetitimer, uint64(which), p.words(append(timeval(i.Every), timeval(i.Value)...)...)))
		}
	}
	return nil
}

func (p *planner) planShared(inode, size uint64) {
	lent, first := p.lent(inode)
	if lent != 0 && !first {
		p.main.add(p.take(lent))
	} else {
		p.main.add(call("make shared memory", sysMemfdCreate, p.string(sharedMemory), memfdUsual).to(p.temp),
			call("size it", sysFtruncate, p.temp, size).with(indirect(0)))
		for _, v := range p.process.VMAs {
			if v.sharedAnonymous() && v.Inode == inode {
				p.copyShared(v)
			}
		}
	}
	for _, v := range p.process.VMAs {
		if v.sharedAnonymous() && v.Inode == inode {
			p.main.add(call("map it", sysMmap, v.Start, v.End-v.Start, protection(v.Perms), mapShared|mapFixed, p.temp, v.Offset).with(indirect(4)))
		}
	}
	if lent != 0 && first {
		p.main.add(call("keep it for the children", sysDup3, p.temp, uint64(lent), openCloexec).with(indirect(0)))
	}
	p.main.add(call("close it", sysClose, p.temp).with(indirect(0)))
}

// mostRanges is how many parts of one mapping are copied one by one.
const mostRanges = 1000

// copyShared leaves holes what they are.
func (p *planner) copyShared(v VMA) {
	ranges := v.Data
	if n := len(ranges); n > mostRanges {
		ranges = []linux.Range{{From: ranges[0].From, To: ranges[n-1].To}}
	}
	for _, r := range ranges {
		at := uint64(r.From)
		p.main.add(call("copy it", sysPwrite64, p.temp, v.Start+at-v.Offset, uint64(r.To)-at, at).with(indirect(0)))
	}
}

func protection(perms string) (bits uint64) {
	for letter, bit := range map[string]uint64{"r": protRead, "w": protWrite, "x": protExec} {
		if strings.Contains(perms, letter) {
			bits |= bit
		}
	}
	return bits
}
