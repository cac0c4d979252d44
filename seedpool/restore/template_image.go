package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/creds"
	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fown"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/timer"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// templateBase is added to the ids of a template's processes and threads. The low ones of its pid namespace are CRIU's own and the zygote's.
const templateBase = 10000

// lastID is the highest id that an image may have: with the base added it is below what every kernel allows.
const lastID = 32767 - templateBase

// ErrNoTemplate is wrapped by errors that say why an image cannot be made a template's: its instances are restored instead.
var ErrNoTemplate = errors.New("not to be cloned")

// Origin is what a process was before its image was made a template's, and what its clones are to be.
type Origin struct {
	// Tids are the ids of all threads of the tree, by the ids that they have in the template.
	Tids map[int]int
	// Capability sets, bit n is capability n.
	Effective, Permitted, Inheritable uint64
	// Filter is the seccomp filter of all threads, an array of struct sock_filter, and FilterFlags are its SECCOMP_FILTER_FLAG_*; empty: none.
	Filter      []byte
	FilterFlags uint32
}

// templateEdit is an image on its way to a template's.
type templateEdit struct {
	from, to string
	caps     uint64
	pidNS    uint32
	// tids are the ids of all threads, by those that they have in the template.
	tids map[int]int
	// written are the files of the old image that have another content or name in the new one.
	written []string
}

// edited is one process of an image that was made a template's.
type edited struct {
	pid    uint32
	origin *Origin
}

// editTemplate writes, of the image in `from`, one from which CRIU makes the template: processes of an existing pid namespace, with ids that are free there,
// with all capabilities that `caps` has, and without seccomp filter. Nothing else of it is changed: what is large is linked to.
func editTemplate(from, to string, caps uint64) (list []edited, err error) {
	e := &templateEdit{from: from, to: to, caps: caps, tids: make(map[int]int)}
	var inv inventory.InventoryEntry
	if err := one(filepath.Join(from, "inventory.img"), &inv); err != nil {
		return nil, err
	}
	if inv.GetRootIds().PidNsId == nil {
		return nil, fmt.Errorf("inventory.img: no pid namespace: %w", ErrImage)
	}
	e.pidNS = inv.GetRootIds().GetPidNsId()
	tasks, err := e.tree()
	if err != nil {
		return nil, err
	}
	for pid, threads := range tasks {
		origin, err := e.process(pid, threads)
		if err != nil {
			return nil, err
		}
		list = append(list, edited{pid, origin})
	}
	slices.SortFunc(list, func(a, b edited) int { return int(a.pid) - int(b.pid) })
	if err := e.owners(); err != nil {
		return nil, err
	}
	return list, e.rest(tasks)
}

// tree rewrites the list of processes: there may be one, or an init and its children. It returns their threads.
func (e *templateEdit) tree() (threads map[uint32][]uint32, err error) {
	var tasks []*pstree.PstreeEntry
	err = entries(filepath.Join(e.from, "pstree.img"), func(data []byte) error {
		t := new(pstree.PstreeEntry)
		tasks = append(tasks, t)
		return decoded("pstree.img", data, t)
	})
	if err != nil {
		return nil, err
	}
	threads = make(map[uint32][]uint32)
	for n, t := range tasks {
		if len(t.Threads) > maxTasks || !slices.Contains(t.Threads, t.GetPid()) || threads[t.GetPid()] != nil {
			return nil, fmt.Errorf("pstree.img: process %d has threads %v: %w", t.GetPid(), t.Threads, ErrImage)
		}
		if init := tasks[0].GetPid(); n > 0 && t.GetPpid() != init {
			return nil, fmt.Errorf("process %d is a child of process %d, not of the first one: start the server itself as the container's first process: %w", t.GetPid(), t.GetPpid(), ErrNoTemplate)
		}
		threads[t.GetPid()] = slices.Clone(t.Threads)
		for n, id := range t.Threads {
			if id == 0 || id > lastID {
				return nil, fmt.Errorf("thread %d has too high a number: %w", id, ErrNoTemplate)
			}
			e.tids[int(id)+templateBase] = int(id)
			t.Threads[n] += templateBase
		}
	}
	if init := tasks[0]; init.GetPgid() != init.GetPid() || init.GetSid() != init.GetPid() {
		return nil, fmt.Errorf("process %d is of group %d in session %d: %w", init.GetPid(), init.GetPgid(), init.GetSid(), ErrNoTemplate)
	}
	e.written = append(e.written, "pstree.img")
	return threads, e.renumber(tasks)
}

// renumber writes the list with other ids. That each is of a group and session of the tree's is for who has them to clone.
func (e *templateEdit) renumber(tasks []*pstree.PstreeEntry) error {
	var list []proto.Message
	for n, t := range tasks {
		ids := []*uint32{t.Pid, t.Pgid, t.Sid}
		if n > 0 {
			ids = append(ids, t.Ppid)
		}
		for _, id := range ids {
			if e.tids[int(*id)+templateBase] == 0 {
				return fmt.Errorf("process %d is of group %d in session %d, which are not of its tree: %w", t.GetPid(), t.GetPgid(), t.GetSid(), ErrNoTemplate)
			}
		}
		for _, id := range ids {
			*id += templateBase
		}
		list = append(list, t)
	}
	return writeImage(filepath.Join(e.to, "pstree.img"), "PSTREE", list...)
}

// process rewrites the state of one process.
func (e *templateEdit) process(pid uint32, threads []uint32) (*Origin, error) {
	origin := &Origin{Tids: e.tids}
	var first *criucore.CoreEntry
	for _, tid := range threads {
		core, err := checkCore(e.from, tid)
		if err != nil {
			return nil, err
		}
		if first == nil {
			first = core
		}
		if err := e.thread(origin, tid, tid == pid, core, first); err != nil {
			return nil, fmt.Errorf("core-%d.img: %w", tid, err)
		}
	}
	if err := e.filter(origin, threads); err != nil {
		return nil, err
	}
	return origin, e.ids(pid)
}

// thread rewrites the state of one thread, whose credentials must be those of the process's first.
func (e *templateEdit) thread(origin *Origin, tid uint32, main bool, core, first *criucore.CoreEntry) error {
	c, task := core.GetThreadCore(), core.GetTc()
	if main && task.GetTaskState() != taskAlive {
		return fmt.Errorf("process %d has ended, and nobody has waited for it: %w", tid, ErrNoTemplate)
	}
	if c.GetCreds() == nil {
		return fmt.Errorf("no credentials: %w", ErrImage)
	}
	if core != first && !proto.Equal(c.GetCreds(), originalCreds(first, origin)) {
		return fmt.Errorf("thread %d has other credentials than the first: %w", tid, ErrNoTemplate)
	}
	if err := e.timers(task.GetTimers().GetPosix()); err != nil {
		return err
	}
	if core == first {
		origin.Effective, origin.Permitted, origin.Inheritable = set(c.Creds.CapEff), set(c.Creds.CapPrm), set(c.Creds.CapInh)
	}
	c.Creds.CapPrm, c.Creds.CapEff = halves(e.caps), halves(e.caps)
	c.SeccompMode, c.SeccompFilter = nil, nil
	if task != nil {
		task.OldSeccompMode, task.OldSeccompFilter = nil, nil
	}
	if core.Ids != nil {
		core.Ids.PidNsId = proto.Uint32(e.pidNS)
	}
	e.written = append(e.written, fmt.Sprintf("core-%d.img", tid))
	return writeImage(filepath.Join(e.to, fmt.Sprintf("core-%d.img", tid+templateBase)), "CORE", core)
}

// originalCreds are the first thread's before they were widened.
func originalCreds(first *criucore.CoreEntry, o *Origin) *creds.CredsEntry {
	c := proto.CloneOf(first.GetThreadCore().GetCreds())
	c.CapEff, c.CapPrm = halves(o.Effective), halves(o.Permitted)
	return c
}

// set and halves: a capability set is two words in an image, the low one first.
func set(words []uint32) (bits uint64) {
	for n, w := range words {
		bits |= uint64(w) << (32 * min(n, 1))
	}
	return bits
}

func halves(bits uint64) []uint32 { return []uint32{uint32(bits), uint32(bits >> 32)} }

// Modes of seccomp.
const (
	seccompOff    = 0
	seccompFilter = 2
)

// filter takes the seccomp filter of all threads. CRIU notes one that was installed for all at once with the process's first thread only, and says so in its
// flags.
func (e *templateEdit) filter(origin *Origin, threads []uint32) error {
	var modes, indexes []uint32
	for _, tid := range threads {
		core, err := checkCore(e.from, tid)
		if err != nil {
			return err
		}
		c := core.GetThreadCore()
		mode := uint32(c.GetSeccompMode())
		if mode != seccompOff && mode != seccompFilter {
			return fmt.Errorf("thread %d has seccomp mode %d: %w", tid, mode, ErrNoTemplate)
		}
		if modes = append(modes, mode); mode == seccompFilter {
			indexes = append(indexes, c.GetSeccompFilter())
		}
	}
	if len(indexes) == 0 {
		return nil
	}
	e.written = append(e.written, "seccomp.img")
	var list seccomp.SeccompEntry
	if err := one(filepath.Join(e.from, "seccomp.img"), &list); err != nil {
		return err
	}
	at := indexes[0]
	if int(at) >= len(list.SeccompFilters) {
		return fmt.Errorf("seccomp.img: no filter %d: %w", at, ErrImage)
	}
	f := list.SeccompFilters[at]
	const forAll = 1 // SECCOMP_FILTER_FLAG_TSYNC
	same := !slices.ContainsFunc(indexes, func(i uint32) bool { return i != at })
	if !same || f.Prev != nil || len(indexes) < len(modes) && f.GetFlags()&forAll == 0 {
		return fmt.Errorf("its threads have several seccomp filters: %w", ErrNoTemplate)
	}
	if len(f.GetFilter()) == 0 || len(f.GetFilter())%8 != 0 {
		return fmt.Errorf("seccomp.img: filter of %d bytes: %w", len(f.GetFilter()), ErrImage)
	}
	origin.Filter, origin.FilterFlags = f.GetFilter(), f.GetFlags()&^forAll
	return nil
}

// ids rewrites the numbers of a process's namespaces: with that of CRIU's own pid namespace it makes none.
func (e *templateEdit) ids(pid uint32) error {
	name := fmt.Sprintf("ids-%d.img", pid)
	var ids criucore.TaskKobjIdsEntry
	if err := one(filepath.Join(e.from, name), &ids); err != nil {
		return err
	}
	ids.PidNsId = proto.Uint32(e.pidNS)
	e.written = append(e.written, name)
	return writeImage(filepath.Join(e.to, fmt.Sprintf("ids-%d.img", pid+templateBase)), "IDS", &ids)
}

// owners renumbers the processes to whom open files send signals: in the template's pid namespace their old numbers may be another's.
func (e *templateEdit) owners() error {
	var list []proto.Message
	err := entries(filepath.Join(e.from, "files.img"), func(data []byte) (err error) {
		file := new(fdinfo.FileEntry)
		if err := decoded("files.img", data, file); err != nil {
			return err
		}
		list = append(list, file)
		file.ProtoReflect().Range(func(_ protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			entry, is := v.Interface().(protoreflect.Message)
			if !is {
				return true
			}
			if owned, is := entry.Interface().(interface{ GetFown() *fown.FownEntry }); is {
				err = errors.Join(err, e.owner(owned.GetFown()))
			}
			return true
		})
		return err
	})
	if err != nil {
		return err
	}
	e.written = append(e.written, "files.img")
	return writeImage(filepath.Join(e.to, "files.img"), "FILES", list...)
}

// timers renumbers the threads that timers signal.
func (e *templateEdit) timers(list []*timer.PosixTimerEntry) error {
	for _, t := range list {
		id := t.GetNotifyThreadId()
		if id == 0 {
			continue
		}
		if e.tids[int(id)+templateBase] == 0 {
			return fmt.Errorf("timer %d signals thread %d, which is not of its tree: %w", t.GetItId(), id, ErrNoTemplate)
		}
		t.NotifyThreadId = proto.Int32(id + templateBase)
	}
	return nil
}

func (e *templateEdit) owner(o *fown.FownEntry) error {
	id := o.GetPid()
	if id == 0 {
		return nil
	}
	if e.tids[int(id)+templateBase] == 0 {
		return fmt.Errorf("a file sends signals to %d, which is not of its tree: %w", id, ErrNoTemplate)
	}
	o.Pid = proto.Uint32(id + templateBase)
	return nil
}

// What becomes of the other files of an image, by the first part of their names. A kind that is not here is one of which nobody knows whether it names a process.
var (
	renamed = []string{"mm", "pagemap", "fs"} // they end in the process's id, and hold none
	linked  = []string{
		"inventory", "files", "fdinfo", "pages", "mountpoints", "utsns", "ipcns", "netns", "timens", "cgroup", "seccomp", "stats",
		"pipes", "fifo", "memfd", "eventfd", "eventpoll", "timerfd", "signalfd", "unixsk", "inetsk", "ghost", "remap", "tmpfs", "mount", "route", "route6", "rule",
		"ifaddr", "iptables", "ip6tables", "nftables", "netdev",
	}
)

// rest gives the new image what of the old one was not rewritten. `pagemap-shmem` and `pipes-data` are of their first part's kind.
func (e *templateEdit) rest(tasks map[uint32][]uint32) error {
	list, err := os.ReadDir(e.from)
	if err != nil {
		return err
	}
	for _, entry := range list {
		name, isImage := strings.CutSuffix(entry.Name(), ".img")
		if slices.Contains(e.written, entry.Name()) || !isImage {
			continue
		}
		kind, id, _ := strings.Cut(name, "-")
		to := entry.Name()
		number, _ := strconv.ParseUint(id, 10, 32)
		switch pid := uint32(number); {
		case slices.Contains(renamed, kind) && tasks[pid] != nil:
			to = fmt.Sprintf("%s-%d.img", kind, pid+templateBase)
		case slices.Contains(linked, kind) || kind == "pagemap" && strings.HasPrefix(id, "shmem-"):
		default:
			return fmt.Errorf("its image has %s: %w", entry.Name(), ErrNoTemplate)
		}
		if err := referTo(filepath.Join(e.from, entry.Name()), filepath.Join(e.to, to)); err != nil {
			return err
		}
	}
	return nil
}

// referTo gives a file another name, and leaves it as it is: stat says of a seed's files whether they were touched since they were checked. A symlink inside the mount that both
// are in leads there also for the template, which reads its pages when it has its own root already. Between mounts the file is copied.
func referTo(from, to string) error {
	source, err := filepath.EvalSymlinks(from)
	if err != nil {
		return err
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(to))
	if err != nil {
		return err
	}
	same, err := linux.SameMount(filepath.Dir(source), dir)
	if err != nil {
		return err
	}
	if !same {
		return copyFile(from, to)
	}
	rel, err := filepath.Rel(dir, source)
	if err != nil {
		return err
	}
	return os.Symlink(rel, to)
}
