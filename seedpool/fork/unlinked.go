package fork

import (
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
)

// unlinkedLimit is how much an unlinked file may hold. They are mostly empty, or small: something that several processes lock, or whose time of change is a sign of life.
const unlinkedLimit = 64 << 10

const permissions = 0o7777

func nameless(info fs.FileInfo) bool {
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && stat.Nlink == 0
}

// readUnlinked reads a file that has no name any more: the clone gets another, with the same content.
func (i *inspector) readUnlinked(link string, info fs.FileInfo, f *File) error {
	stat := info.Sys().(*syscall.Stat_t)
	f.Kind = KindDeleted
	f.Status = &Status{stat.Mode & permissions, stat.Uid, stat.Gid, [4]uint64{uint64(stat.Atim.Sec), uint64(stat.Atim.Nsec), uint64(stat.Mtim.Sec), uint64(stat.Mtim.Nsec)}}
	if info.Size() > unlinkedLimit || f.Flags&accessMode == 0 || f.Flags&openPath != 0 || !strings.HasPrefix(f.Path, "/") || strings.HasPrefix(f.Path, "/memfd:") {
		i.refuse(CodeUnlinked, "", "descriptor %d: %s has no name, and is a memfd, larger than %d bytes or not open for writing", f.FD, f.Path, unlinkedLimit)
		return nil
	}
	file, err := os.Open(link)
	if err != nil {
		return err
	}
	defer file.Close()
	f.Content, err = io.ReadAll(io.LimitReader(file, unlinkedLimit))
	return err
}

// judgeUnlinked refuses an unlinked file that was opened more than once: each would become a file of its own.
func judgeUnlinked(processes []*Process) (list []Refusal) {
	seen := map[uint64]bool{}
	for _, p := range processes {
		for _, f := range p.Files {
			if f.Kind != KindDeleted || f.Same != f.FD {
				continue
			}
			if seen[f.Inode] {
				list = append(list, Refusal{CodeUnlinked, fmt.Sprintf("descriptor %d of %s: %s has no name, and is open twice", f.FD, p.name(), f.Path), ""})
			}
			seen[f.Inode] = true
		}
	}
	return list
}

// planUnlinked makes a file where the old one was, and takes its name away: one of O_TMPFILE would say so ever after.
func (p *planner) planUnlinked(f File) {
	flags := f.Flags&^(openTrunc|openAsync) | openCreate | openExcl
	s, name := f.Status, p.string(fmt.Sprintf("%s/.sprout-%x", path.Dir(f.Path), f.Inode))
	p.main.add(call("make a file for "+f.Path, sysOpenat, here, name, uint64(flags), 0o600).to(p.temp),
		call("take its name away", sysUnlinkat, here, name))
	if len(f.Content) > 0 {
		p.main.add(call("fill it", sysPwrite64, p.temp, p.bytes(f.Content, 1), uint64(len(f.Content))).with(indirect(0)))
	}
	p.main.add(
		call("give it its owner", sysFchown, p.temp, uint64(s.UID), uint64(s.GID)).with(indirect(0)),
		call("and its mode", sysFchmod, p.temp, uint64(s.Mode)).with(indirect(0)),
		call("and its times", sysUtimensat, p.temp, 0, p.words(s.Times[:]...)).with(indirect(0)))
	if f.Pos != 0 {
		p.main.add(call("go to its offset", sysLseek, p.temp, uint64(f.Pos), 0).with(indirect(0)))
	}
}
