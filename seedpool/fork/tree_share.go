package fork

import (
	"fmt"
	"os"
	"slices"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// roomBelow the descriptors that the first process has for its children is for those that are open for a moment.
const roomBelow = 16

// sharer finds what the processes of a tree have in common. All of it is made by the first process, in which every pipe has both its ends then, and its children take it
// from there: what a child had of a common object is taken (KindTaken), what the first process has not is added to it, under a number above all others.
type sharer struct {
	processes []*Process
	next      int
	refusals  []Refusal
}

// share gives the processes of a tree their places, and what they are to take from the first.
func share(processes []*Process) ([]Refusal, error) {
	if len(processes) == 1 {
		return nil, nil
	}
	s := &sharer{processes: processes, next: roomBelow}
	for _, p := range processes {
		p.Member = &Member{Memory: map[uint64]int{}}
	}
	for _, f := range processes[0].Files {
		s.next = max(s.next, f.FD+roomBelow)
	}
	lent := &processes[0].Member.Lent
	lent[0] = s.next
	if err := s.judgeState(); err != nil {
		return nil, err
	}
	all, err := s.descriptions()
	if err != nil {
		return nil, err
	}
	for _, d := range all {
		s.shareFile(d, all)
	}
	s.shareMemory()
	lent[1] = s.next
	return s.refusals, nil
}

// judgeState refuses processes that are half threads of each other, and children with namespaces of their own: they would get the first process's.
func (s *sharer) judgeState() error {
	for n, p := range s.processes {
		for _, o := range s.processes[:n] {
			what, err := linux.SharedState(o.PID, p.PID)
			if err != nil {
				return err
			}
			if what != "" {
				s.refusals = append(s.refusals, Refusal{CodeShared, fmt.Sprintf("%s and %s share their %s", o.name(), p.name(), what), ""})
			}
		}
		for _, kind := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
			own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.PID, kind))
			if err != nil {
				return err
			}
			firsts, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", s.processes[0].PID, kind))
			if err != nil {
				return err
			}
			if own != firsts {
				s.refusals = append(s.refusals, Refusal{CodeRoot, fmt.Sprintf("%s has a %s namespace of its own", p.name(), kind), ""})
			}
		}
	}
	return nil
}

// description is an open file with the descriptors that lead to it, one of each process that has it.
type description []*holding

type holding struct {
	process *Process
	at      int
}

func (h *holding) file() *File { return &h.process.Files[h.at] }

// descriptions lists all open files of the tree.
func (s *sharer) descriptions() (all []description, err error) {
	for _, p := range s.processes {
		for at := range p.Files {
			if p.Files[at].Same != p.Files[at].FD {
				continue
			}
			h := &holding{p, at}
			n, err := find(all, h)
			if err != nil {
				return nil, err
			}
			if n < 0 {
				all = append(all, description{h})
			} else {
				all[n] = append(all[n], h)
			}
		}
	}
	return all, nil
}

// find is the place of the open file that a descriptor leads to, -1 if it is not in the list. Only what has the same link can be the same.
func find(all []description, h *holding) (int, error) {
	for n, d := range all {
		o := d[0]
		if o.process == h.process || o.file().Path != h.file().Path || o.file().Kind != h.file().Kind {
			continue
		}
		same, err := linux.SameDescription(o.process.PID, o.file().FD, h.process.PID, h.file().FD)
		if err != nil {
			return -1, err
		}
		if same {
			return n, nil
		}
	}
	return -1, nil
}

// shareFile decides who makes an open file.
func (s *sharer) shareFile(d description, all []description) {
	first := s.processes[0]
	inFirst := d[0].process == first
	if len(d) == 1 && (inFirst || !leaves(d, all)) {
		return
	}
	f := *d[0].file()
	if f.Kind == KindEpoll {
		s.refusals = append(s.refusals, Refusal{CodeEpoll, fmt.Sprintf("descriptor %d of %s is shared by several processes", f.FD, d[0].process.name()), ""})
	}
	if !inFirst {
		f.FD, f.Same = s.next, s.next
		s.next++
		first.Files = append(first.Files, f)
	}
	for _, h := range d {
		if h.process != first {
			taken := h.file()
			taken.Kind, taken.From, taken.Content = KindTaken, f.FD, nil
		}
	}
}

// leaves says whether an open file that one process has is an end of a pipe, or of a connection, of which another has an end.
func leaves(d description, all []description) bool {
	f := d[0].file()
	return slices.ContainsFunc(all, func(other description) bool {
		o := other[0].file()
		pipe := f.Kind == KindPipe && o.Path == f.Path
		pair := f.unix() && f.Link.Peer != 0 && o.Socket != nil && o.Inode == f.Link.Peer
		return (pipe || pair) && slices.ContainsFunc(other, func(h *holding) bool { return h.process != d[0].process })
	})
}

// shareMemory decides the same for shared anonymous memory. What the first process has not mapped it cannot copy.
func (s *sharer) shareMemory() {
	first := s.processes[0]
	for n, p := range s.processes[1:] {
		for _, v := range p.VMAs {
			if !v.sharedAnonymous() || p.Member.Memory[v.Inode] != 0 && covers(first.VMAs, v) {
				continue
			}
			others := slices.Concat(s.processes[:n+1], s.processes[n+2:])
			if !slices.ContainsFunc(others, func(o *Process) bool { return maps(o, v.Inode) }) {
				continue
			}
			if !covers(first.VMAs, v) {
				what := fmt.Sprintf("%s shares mapping %x-%x, which the first process has not mapped", p.name(), v.Start, v.End)
				s.refusals = append(s.refusals, Refusal{CodeShared, what, ""})
				continue
			}
			if first.Member.Memory[v.Inode] == 0 {
				first.Member.Memory[v.Inode] = s.next
				s.next++
			}
			p.Member.Memory[v.Inode] = first.Member.Memory[v.Inode]
		}
	}
}

func maps(p *Process, inode uint64) bool {
	return slices.ContainsFunc(p.VMAs, func(v VMA) bool { return v.sharedAnonymous() && v.Inode == inode })
}

// covers says whether mappings of the same memory show all that one shows; they are in the order of addresses.
func covers(list []VMA, v VMA) bool {
	from, to := v.Offset, v.Offset+v.End-v.Start
	for again := true; again && from < to; {
		again = false
		for _, o := range list {
			if o.sharedAnonymous() && o.Inode == v.Inode && o.Offset <= from && from < o.Offset+o.End-o.Start {
				from, again = o.Offset+o.End-o.Start, true
			}
		}
	}
	return from >= to
}
