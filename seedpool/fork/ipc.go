package fork

import (
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// segmentsLimit is how much System V memory a process may have: each clone has a copy.
const segmentsLimit = 64 << 20

const shmReadOnly, shmRemap, shmExec = 0o10000, 0o40000, 0o100000

// readIPC reads settings and System V segments, of which a clone's new IPC namespace has copies. Other objects, and segments that are about to be removed, are refused.
func (i *inspector) readIPC() error {
	all, err := linux.ReadIPC(i.pid)
	if err != nil {
		return err
	}
	const fix = "use POSIX shared memory and semaphores"
	if all.Semaphores || all.Queues {
		i.refuse(CodeSysV, fix, "the IPC namespace has System V semaphores or queues")
	}
	total := uint64(0)
	for _, s := range all.Segments {
		if total += s.Size; s.Mode&^0o777 != 0 || total > segmentsLimit {
			i.refuse(CodeSysV, fix, "System V segment %d of %d bytes has mode %o: it is to be removed, locked, of huge pages, or all are larger than %d bytes", s.ID, s.Size, s.Mode, segmentsLimit)
		}
	}
	i.process.IPC = all
	return nil
}

// segment says that a mapping is of System V memory, whose inode is the number of the segment.
func (v VMA) segment() bool { return v.shared() && strings.HasPrefix(v.Path, "/SYSV") }

// judgeSegment refuses a mapping that shmat(2) would not make: of a part of a segment.
func (i *inspector) judgeSegment(v VMA) {
	at := slices.IndexFunc(i.process.IPC.Segments, func(s linux.Segment) bool { return uint64(s.ID) == v.Inode })
	if at < 0 || v.Offset != 0 || (i.process.IPC.Segments[at].Size+pageSize-1)/pageSize*pageSize != v.End-v.Start || v.Perms[0] != 'r' {
		i.refuse(CodeSysV, "", "mapping %x-%x %s of %s is not that of a whole segment", v.Start, v.End, v.Perms, v.Path)
	}
}

// planSegments attaches the copies in the place of the template's segments.
func (p *planner) planSegments() {
	for _, v := range p.process.VMAs {
		if !v.segment() {
			continue
		}
		flags := uint64(shmRemap)
		if v.Perms[1] != 'w' {
			flags |= shmReadOnly
		}
		if v.Perms[2] == 'x' {
			flags |= shmExec
		}
		p.main.add(call("attach segment "+strconv.FormatUint(v.Inode, 10), sysShmat, v.Inode, v.Start, flags))
	}
}

// copyIPC gives a clone an IPC namespace like the template's, which the caller closes; nil: a new one is like it.
func (t *Template) copyIPC(s *Sandbox, f *Files) (*os.File, error) {
	if len(t.ipc.Segments) == 0 && len(t.ipc.Settings) == 0 {
		return nil, nil
	}
	if s.JoinIPC {
		return nil, errOwnIPC
	}
	ns, err := t.ipc.Copy(t.pid)
	s.JoinIPC, f.IPC = true, ns
	return ns, err
}

var errOwnIPC = errors.New("it has System V memory, or settings, in its IPC namespace, and the clone is to have another's")
