package fork

import (
	"encoding/binary"
	"fmt"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Owner is who gets the signals of a descriptor: fcntl(2), F_SETOWN_EX and F_SETSIG.
type Owner struct {
	// Kind is F_OWNER_*, ID a process or a group, as the process itself sees it; 0: nobody. Signal 0 is SIGIO.
	Kind, ID, Signal int
}

const (
	ownerThread, ownerProcess, ownerGroup = 0, 1, 2
	fcntlSetSignal, fcntlSetOwner         = 10, 15
	// settable are the flags of fcntl(2) that an open file may have.
	openAsync, openNoAtime = 0o20000, 0o1000000
	settable               = openAppend | openNonblock | openDirect | openNoAtime | openAsync
)

// readOwner reads who gets the signals of a descriptor.
func (i *inspector) readOwner(process *linux.Pidfd, f *File) error {
	if f.Flags&openPath != 0 {
		return nil
	}
	o, err := process.Owner(f.FD)
	if err != nil {
		return err
	}
	if o.ID != 0 || o.Signal != 0 {
		f.Owner = &Owner{o.Kind, o.ID, o.Signal}
	}
	if o.ID != 0 && (o.UID != i.users[0] || o.EUID != i.users[1]) {
		i.refuse(CodeFile, "", "descriptor %d (%s) sends signals with the rights of user %d", f.FD, f.Path, o.UID)
	}
	return nil
}

// judgeOwners gives owners the numbers that they have in the clone. Whoever makes a file can make itself or its group the owner: others are not there yet.
func judgeOwners(processes []*Process) (list []Refusal) {
	for _, p := range processes {
		for n := range p.Files {
			f := &p.Files[n]
			if f.Owner == nil || f.Kind == KindTaken || f.Owner.ID == 0 {
				continue
			}
			main := p.Threads[0].Tid
			switch o := *f.Owner; {
			case o.Kind != ownerGroup && o.ID == p.PID:
				f.Owner = &Owner{o.Kind, main, o.Signal}
			case o.Kind == ownerGroup && o.ID == p.PID && p.Group == main:
				f.Owner = &Owner{o.Kind, main, o.Signal}
			default:
				list = append(list, Refusal{CodeFile, fmt.Sprintf("descriptor %d of %s (%s) sends signals to %d, which is another", f.FD, p.name(), f.Path, o.ID), ""})
			}
		}
	}
	return list
}

// planOwner comes when nothing more is done to the file: it may send signals from then on.
func (p *planner) planOwner(f File) {
	if o := f.Owner; o != nil {
		if o.Signal != 0 {
			p.main.add(call(fmt.Sprintf("have %d send its signal", f.FD), sysFcntl, uint64(f.FD), fcntlSetSignal, uint64(o.Signal)))
		}
		if o.ID != 0 {
			owner := binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, uint32(o.Kind)), uint32(o.ID))
			p.main.add(call(fmt.Sprintf("have %d send it to its owner", f.FD), sysFcntl, uint64(f.FD), fcntlSetOwner, p.bytes(owner, 4)))
		}
	}
	if f.Flags&openAsync != 0 {
		p.main.add(call(fmt.Sprintf("have %d send signals", f.FD), sysFcntl, uint64(f.FD), fcntlSetFlags, uint64(f.Flags&settable)))
	}
}
