package fork

import (
	"encoding/binary"
	"fmt"
	"slices"
)

const (
	here     = ^uint64(99) // AT_FDCWD
	noFollow = 0x100       // AT_SYMLINK_NOFOLLOW

	openCreate, openExcl, openTrunc = 0o100, 0o200, 0o1000
	openNonblock, openAppend        = 0o4000, 0o2000
	openDirect, openPath            = 0o40000, 0o10000000

	fcntlSetFlags    = 4
	fcntlSetPipeSize = 1031
	pipeSizeUsual    = 64 << 10
	epollAdd         = 1
	eventSemaphore   = 1
)

// planFiles replaces every descriptor that the clone has inherited by one of its own. dup3 puts the new one in the old one's place, so that all numbers
// stay taken until the end: a new descriptor cannot get one of them by chance.
func (p *planner) planFiles() error {
	p.main.add(p.lap(1))
	for _, f := range p.process.Files {
		if f.Same != f.FD || f.Kind == KindPipe || f.unix() && f.Socket.Connected {
			continue
		}
		if err := p.planFile(f); err != nil {
			return fmt.Errorf("descriptor %d: %w", f.FD, err)
		}
	}
	p.planPipes()
	if err := p.planUnix(); err != nil {
		return err
	}
	for _, f := range p.process.Files {
		if f.Same == f.FD && f.Kind != KindTaken {
			p.planOwner(f)
		}
		if f.Same != f.FD {
			p.main.add(call(fmt.Sprintf("make %d the same file as %d", f.FD, f.Same), sysDup3, uint64(f.Same), uint64(f.FD), uint64(f.Flags&openCloexec)))
		}
	}
	for _, f := range p.process.Files {
		for _, w := range f.Watches {
			if f.Same != f.FD {
				continue
			}
			event := binary.LittleEndian.AppendUint64(binary.LittleEndian.AppendUint32(nil, w.Events), w.Data)
			p.main.add(call(fmt.Sprintf("have %d watch %d", f.FD, w.FD), sysEpollCtl, uint64(f.FD), epollAdd, uint64(w.FD), p.bytes(event, 8)))
		}
	}
	return nil
}

func (p *planner) planFile(f File) error {
	status := uint64(f.Flags & openNonblock)
	switch f.Kind {
	case KindRegular, KindDir, KindChar:
		flags := f.Flags &^ (openCreate | openExcl | openTrunc | openAsync)
		p.main.add(call("open "+f.Path, sysOpenat, here, p.string(f.Path), uint64(flags)).to(p.temp))
		if f.Pos != 0 {
			p.main.add(call("go to its offset", sysLseek, p.temp, uint64(f.Pos), 0).with(indirect(0)))
		}
	case KindStdio:
		if f.FD >= standardStreams {
			return fmt.Errorf("%s is not a standard stream", f.Path)
		}
		p.main.add(call(fmt.Sprintf("take stream %d", f.FD), sysDup3, uint64(p.FDBase+fdStreams+f.FD), uint64(f.FD), uint64(f.Flags&openCloexec)),
			call("set its flags", sysFcntl, uint64(f.FD), fcntlSetFlags, uint64(f.Flags&(openNonblock|openAppend))))
		return nil
	case KindAgain:
		flags := f.Flags &^ (openCreate | openExcl | openTrunc | openAsync)
		p.main.add(call(fmt.Sprintf("open stream %d again", f.From), sysOpenat, here, p.string(fmt.Sprintf("/proc/self/fd/%d", f.From)), uint64(flags)).to(p.temp))
	case KindEvent:
		if f.Count>>32 != 0 {
			return fmt.Errorf("count %d is too large", f.Count)
		}
		if f.Semaphore {
			status |= eventSemaphore
		}
		p.main.add(call("make an event counter", sysEventfd2, f.Count, status).to(p.temp))
	case KindTimer:
		p.main.add(call("make a timer", sysTimerfdCreate, uint64(f.Clock), status).to(p.temp),
			call("set it", sysTimerfdSet, p.temp, 0, p.words(append(timespec(f.Timer.Every), timespec(f.Timer.Value)...)...)).with(indirect(0)))
	case KindSignal:
		p.main.add(call("make a signal descriptor", sysSignalfd4, ^uint64(0), p.words(f.Mask), maskSize, status).to(p.temp))
	case KindDeleted:
		p.planUnlinked(f)
	case KindTaken:
		p.main.add(p.take(f.From))
	case KindNotify:
		p.main.add(call("make an inotify instance", sysInotifyInit1, status).to(p.temp))
	case KindEpoll:
		p.main.add(call("make an epoll instance", sysEpollCreate1).to(p.temp))
	case KindSocket:
		p.planSocket(f)
		return nil
	default:
		return fmt.Errorf("kind %q is not known", f.Kind)
	}
	p.put(p.temp, f)
	return nil
}

// put gives a new descriptor, whose number is at an address, the number of the old one.
func (p *planner) put(at uint64, f File) {
	p.main.add(
		call(fmt.Sprintf("make it descriptor %d", f.FD), sysDup3, at, uint64(f.FD), uint64(f.Flags&openCloexec)).with(indirect(0)),
		call("close its first number", sysClose, at).with(indirect(0)))
}

// planPipes makes the pipes whose two ends are both inside.
func (p *planner) planPipes() {
	var done []uint64
	for _, f := range p.process.Files {
		if f.Kind != KindPipe || slices.Contains(done, f.Inode) {
			continue
		}
		done = append(done, f.Inode)
		pair := p.words(0, 0) // the second word is read with the second descriptor
		p.main.add(call("make a pipe", sysPipe2, pair, uint64(f.Flags&openDirect)))
		if f.Size != pipeSizeUsual {
			p.main.add(call("size it", sysFcntl, pair, fcntlSetPipeSize, uint64(f.Size)).with(indirect(0)))
		}
		isEnd := func(o File) bool { return o.Kind == KindPipe && o.Inode == f.Inode && o.Same == o.FD }
		for _, end := range p.process.Files {
			if isEnd(end) && len(end.Content) > 0 {
				p.main.add(call("fill it", sysWrite, pair+4, p.bytes(end.Content, 1), uint64(len(end.Content))).with(indirect(0)))
			}
		}
		for _, end := range p.process.Files {
			if !isEnd(end) {
				continue
			}
			at := pair + uint64(4*(end.Flags&accessMode))
			if flags := end.Flags & (openNonblock | openAppend | openDirect); flags != 0 {
				p.main.add(call("set its flags", sysFcntl, at, fcntlSetFlags, uint64(flags)).with(indirect(0)))
			}
			p.put(at, end)
		}
	}
}
