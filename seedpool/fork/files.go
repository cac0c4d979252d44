package fork

import (
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Numbers of the kernel's, for x86-64.
const (
	accessMode        = 3
	timerfdAbsolute   = 1
	memoryDeviceMajor = 1
)

// sharedDevices have no state: null, zero, full, random, urandom (Documentation/admin-guide/devices.txt).
var sharedDevices = []uint32{3, 5, 7, 8, 9}

// readFile reads one descriptor and refuses what it does not know.
func (i *inspector) readFile(process *linux.Pidfd, fd int) (f File, err error) {
	text, err := i.read("fdinfo/%d", fd)
	if err != nil {
		return f, err
	}
	n, err := parseFdinfo(text)
	if err != nil {
		return f, err
	}
	link := fmt.Sprintf("/proc/%d/fd/%d", i.pid, fd)
	target, err := os.Readlink(link)
	if err != nil {
		return f, err
	}
	f = File{Holder: i.pid, Held: fd, FD: fd, Path: target, Flags: n.flags, Pos: n.pos, Same: fd, Inode: n.ino}
	for _, line := range n.unknown {
		i.refuse(CodeLocked, "", "descriptor %d (%s) has %q", fd, target, line)
	}
	if err := i.readOwner(process, &f); err != nil {
		return f, err
	}
	switch {
	case target == "anon_inode:[eventfd]":
		f.Kind, f.Count, f.Semaphore = KindEvent, n.count, n.semaphore
	case target == "anon_inode:[eventpoll]":
		f.Kind, f.Watches = KindEpoll, n.watches
	case target == "anon_inode:[timerfd]":
		f.Kind, f.Clock, f.Timer = KindTimer, n.clock, n.timer
		if n.ticks != 0 || n.settime&timerfdAbsolute != 0 {
			i.refuse(CodeTimer, "", "descriptor %d is a timer that has fired, or is set to a date", fd)
		}
	case target == "anon_inode:[signalfd]":
		f.Kind, f.Mask = KindSignal, n.mask
	case target == "anon_inode:inotify":
		f.Kind, f.Notify = KindNotify, n.notify
		err = i.judgeEvents(process, f)
	case strings.HasPrefix(target, "anon_inode:"):
		i.refuse(CodeFile, anonymousFix(target), "descriptor %d is %s", fd, target)
	case strings.HasPrefix(target, "pipe:["):
		f.Kind = KindPipe
		if f.Size, err = process.PipeSize(fd); err == nil && f.Flags&accessMode == 0 {
			f.Content, err = process.Unread(fd, f.Size)
		}
	case strings.HasPrefix(target, "socket:["):
		f.Kind = KindSocket
		err = i.readSocket(process, &f)
	default:
		err = i.readNamed(link, &f)
	}
	return f, err
}

func anonymousFix(target string) string {
	if strings.Contains(target, "io_uring") {
		return "node: UV_USE_IO_URING=0"
	}
	return ""
}

// readNamed reads what was opened by a path: the clone will open it by that path again, so the path must still lead to it.
func (i *inspector) readNamed(link string, f *File) error {
	open, err := os.Stat(link)
	if err != nil {
		return err
	}
	switch mode := open.Mode(); {
	case mode.IsRegular() && nameless(open):
		return i.readUnlinked(link, open, f)
	case mode.IsRegular():
		f.Kind = KindRegular
	case mode.IsDir():
		f.Kind = KindDir
	case mode&fs.ModeCharDevice != 0 && stateless(open):
		f.Kind = KindChar
	case mode&fs.ModeDevice != 0:
		i.refuse(CodeDevice, "", "descriptor %d is device %s", f.FD, f.Path)
	default:
		i.refuse(CodeFile, "", "descriptor %d is %s, %s", f.FD, f.Path, mode.Type())
	}
	named, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", i.pid, f.Path))
	if err != nil || !os.SameFile(open, named) {
		i.refuse(CodeUnlinked, "", "descriptor %d: %s is not what the path leads to", f.FD, f.Path)
	}
	return nil
}

func stateless(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Rdev>>8 == memoryDeviceMajor && slices.Contains(sharedDevices, uint32(stat.Rdev&0xff))
}

// groupFiles finds descriptors of the same open file. Only those with the same link and flags can be.
func groupFiles(pid int, files []File) error {
	for n := range files {
		for m := range n {
			if files[m].Same != files[m].FD || files[m].Path != files[n].Path || files[m].Kind != files[n].Kind {
				continue
			}
			same, err := linux.SameDescription(pid, files[m].FD, pid, files[n].FD)
			if err != nil {
				return err
			}
			if same {
				files[n].Same = files[m].FD
				break
			}
		}
	}
	return nil
}

const standardStreams = 3

// judgePipes tells pipes inside the process from those that lead out of it: of these only standard streams can be replaced. It also sees that the watches
// of an epoll instance are of descriptors that are still the same.
func (i *inspector) judgePipes(files []File) {
	for n := range files {
		f := &files[n]
		switch {
		case f.Kind == KindEpoll:
			i.judgeEpoll(*f, files)
		case f.Kind != KindPipe || f.Same != f.FD:
		case oneWay(files, f.Inode) && streamOf(files, f.Inode) >= 0:
			if f.Kind, f.Content = KindStdio, nil; f.FD >= standardStreams {
				f.Kind, f.From = KindAgain, streamOf(files, f.Inode)
			}
		case !slices.Equal(ends(files, f.Inode), []int{0, 1}):
			i.refuse(CodePipe, "", "descriptor %d is a pipe that leads out of the process", f.FD)
		case len(f.Content) > 0 && f.Flags&openDirect != 0:
			i.refuse(CodePipe, TryAgain, "descriptor %d is a pipe with packets to read", f.FD)
		}
	}
	for n := range files {
		at := slices.IndexFunc(files, func(f File) bool { return f.FD == files[n].Same })
		if kind := files[at].Kind; kind == KindStdio || kind == KindAgain {
			files[n].Kind, files[n].Content = kind, nil
		}
	}
}

// ends lists the access modes with which a pipe is open, one for each open file, in order.
func ends(files []File, inode uint64) (list []int) {
	for _, f := range files {
		if f.Path == "pipe:["+strconv.FormatUint(inode, 10)+"]" && f.Same == f.FD {
			list = append(list, f.Flags&accessMode)
		}
	}
	slices.Sort(list)
	return list
}

// oneWay says that a pipe is open for reading only, or for writing only.
func oneWay(files []File, inode uint64) bool {
	list := ends(files, inode)
	return list[0] == list[len(list)-1] && list[0] != syscall.O_RDWR
}

// streamOf is the standard stream that is a pipe, -1 if none is.
func streamOf(files []File, inode uint64) int {
	at := slices.IndexFunc(files, func(f File) bool { return f.Inode == inode && f.FD < standardStreams && f.Same == f.FD })
	if at < 0 {
		return -1
	}
	return files[at].FD
}

func (i *inspector) judgeEpoll(f File, files []File) {
	for _, w := range f.Watches {
		at := slices.IndexFunc(files, func(f File) bool { return f.FD == w.FD })
		if at < 0 || files[at].Inode != w.Inode {
			i.refuse(CodeEpoll, "", "descriptor %d watches descriptor %d, which is no longer the same", f.FD, w.FD)
		}
	}
}
