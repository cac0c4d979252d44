package fork

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// Subject is a process to inspect, whose threads are all stopped; the first is its main thread.
type Subject struct {
	Threads []*ptrace.Tracee
	// Scratch is a page in it that nobody uses, and Own the range of addresses that is sprout's.
	Scratch uint64
	Own     [2]uint64
	// Origin says which numbers its threads are to have; nil: those that they have.
	Origin *Origin
}

// inspector reads one stopped process.
type inspector struct {
	Subject
	pid     int
	memory  ptrace.Memory
	process *Process
	// users are its user ids.
	users    [4]int
	refusals []Refusal
}

// Inspect reads a process, or an init and its children. With refusals they cannot be cloned as they are; an error means that they could not be read.
func Inspect(ctx context.Context, subjects ...Subject) (processes []*Process, refusals []Refusal, err error) {
	var all []*inspector
	for _, s := range subjects {
		i := &inspector{Subject: s, pid: s.Threads[0].Pid, memory: ptrace.NewMemory(s.Threads[0].Pid), process: &Process{PID: s.Threads[0].Pid}}
		if err := i.inspect(ctx); err != nil {
			return nil, nil, err
		}
		if err := s.Origin.renumber(i.process); err != nil {
			return nil, nil, err
		}
		i.refusals = append(i.refusals, s.Origin.judge(i.process.NoNewPrivs)...)
		all, processes = append(all, i), append(processes, i.process)
	}
	refusals, err = share(processes)
	if err != nil {
		return nil, nil, err
	}
	for n, i := range all {
		if err := i.judgeFiles(); err != nil {
			return nil, nil, err
		}
		for _, r := range i.refusals {
			if n > 0 {
				r.What = i.process.name() + ": " + r.What
			}
			refusals = append(refusals, r)
		}
	}
	return processes, slices.Concat(refusals, judgeUnlinked(processes), judgeOwners(processes), judgeTree(processes)), nil
}

func (i *inspector) inspect(ctx context.Context) error {
	for _, step := range []struct {
		what string
		fn   func() error
	}{
		{"relations", func() error { return i.readRelations(i.process) }},
		{"threads", func() error { return i.readThreads(ctx, i.process) }},
		{"root", func() error { return i.readRoot(i.process) }},
		{"IPC namespace", i.readIPC},
		{"signals and timers", func() error { return i.readSignals(ctx, i.process) }},
		{"POSIX timers", func() error { return i.readTimers(ctx, i.process) }},
		{"mappings", func() error { return i.readMappings(i.process, i.Own) }},
		{"descriptors", func() error { return i.readFiles(i.process) }},
	} {
		if err := step.fn(); err != nil {
			return fmt.Errorf("inspect %s of process %d: %w", step.what, i.pid, err)
		}
	}
	return nil
}

func (i *inspector) refuse(code Code, fix, format string, args ...any) {
	i.refusals = append(i.refusals, Refusal{code, fmt.Sprintf(format, args...), fix})
}

func (i *inspector) read(format string, args ...any) (string, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/", i.pid) + fmt.Sprintf(format, args...))
	return string(data), err
}

func (i *inspector) readRelations(p *Process) error {
	children, err := linux.Children(i.pid)
	if err != nil {
		return err
	}
	p.Children = children
	return nil
}

// readRoot refuses a process that has been moved below the root of its mount namespace, or whose working directory is gone: a clone could not go there.
func (i *inspector) readRoot(p *Process) (err error) {
	root, err := os.Readlink(fmt.Sprintf("/proc/%d/root", i.pid))
	if err != nil {
		return err
	}
	if p.Cwd, err = os.Readlink(fmt.Sprintf("/proc/%d/cwd", i.pid)); err != nil {
		return err
	}
	if root != "/" || strings.HasSuffix(p.Cwd, " (deleted)") || !strings.HasPrefix(p.Cwd, "/") {
		i.refuse(CodeRoot, "", "the process has root %s and working directory %s", root, p.Cwd)
	}
	for _, kind := range []string{"pid", "time"} {
		own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", i.pid, kind))
		if errors.Is(err, fs.ErrNotExist) {
			continue // the kernel has none
		}
		if err != nil {
			return err
		}
		childrens, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s_for_children", i.pid, kind))
		if err != nil {
			return err
		}
		if own != childrens {
			i.refuse(CodeRoot, "", "children of the process are in another %s namespace", kind)
		}
	}
	return nil
}

func (i *inspector) readSignals(ctx context.Context, p *Process) (err error) {
	main := i.Threads[0]
	const sigchld, setSize = 17, 8
	if p.ChildAction, err = i.ask(ctx, main, sizeofSigaction, sysRtSigaction, sigchld, 0, i.Scratch, setSize); err != nil {
		return err
	}
	death, err := i.ask(ctx, main, 4, sysPrctl, prGetPdeathsig, i.Scratch)
	if err != nil {
		return err
	}
	if signal := binary.LittleEndian.Uint32(death); signal != 0 {
		i.refuse(CodePending, "", "the process wants signal %d when its parent ends", signal)
	}
	reaper, err := i.ask(ctx, main, 4, sysPrctl, prGetChildSubreaper, i.Scratch)
	if err != nil {
		return err
	}
	p.Reaper = binary.LittleEndian.Uint32(reaper) != 0
	for which := range p.Intervals {
		b, err := i.ask(ctx, main, sizeofItimerval, sysGetitimer, uint64(which), i.Scratch)
		if err != nil {
			return err
		}
		micros := func(at int) time.Duration {
			return time.Duration(binary.LittleEndian.Uint64(b[at:]))*time.Second + time.Duration(binary.LittleEndian.Uint64(b[at+8:]))*time.Microsecond
		}
		p.Intervals[which] = Interval{Every: micros(0), Value: micros(16)}
	}
	return nil
}

func (i *inspector) readMappings(p *Process, own [2]uint64) error {
	text, err := i.read("smaps")
	if err != nil {
		return err
	}
	list, err := parseSmaps(text)
	if err != nil {
		return err
	}
	p.VMAs = slices.DeleteFunc(list, func(v VMA) bool { return v.Start >= own[0] && v.End <= own[1] })
	for n, v := range p.VMAs {
		i.refusals = append(i.refusals, judgeMapping(v)...)
		if v.sharedAnonymous() {
			file := fmt.Sprintf("/proc/%d/map_files/%x-%x", i.pid, v.Start, v.End)
			if p.VMAs[n].Data, err = linux.DataRanges(file, int64(v.Offset), int64(v.Offset+v.End-v.Start)); err != nil {
				return err
			}
		}
		if v.sharedFile() {
			i.judgeSharedFile(v)
		}
		if v.segment() {
			i.judgeSegment(v)
		}
	}
	return nil
}

// judgeSharedFile refuses a file that the clone could not find by its path.
func (i *inspector) judgeSharedFile(v VMA) {
	mapped, err := os.Stat(fmt.Sprintf("/proc/%d/map_files/%x-%x", i.pid, v.Start, v.End))
	if err != nil {
		i.refuse(CodeShared, "", "mapping %x-%x of %s: %v", v.Start, v.End, v.Path, err)
		return
	}
	named, err := os.Stat(fmt.Sprintf("/proc/%d/root%s", i.pid, v.Path))
	if err != nil || !os.SameFile(mapped, named) {
		i.refuse(CodeShared, "", "mapping %x-%x: %s is not what the path leads to", v.Start, v.End, v.Path)
	}
}

func (i *inspector) readFiles(p *Process) error {
	process, err := linux.OpenPidfd(i.pid)
	if err != nil {
		return err
	}
	defer process.Close()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", i.pid))
	if err != nil {
		return err
	}
	for _, entry := range entries {
		fd, err := strconv.Atoi(entry.Name())
		if err != nil {
			return err
		}
		f, err := i.readFile(process, fd)
		if err != nil {
			return fmt.Errorf("descriptor %d: %w", fd, err)
		}
		p.Files = append(p.Files, f)
	}
	slices.SortFunc(p.Files, func(a, b File) int { return a.FD - b.FD })
	if err := groupFiles(i.pid, p.Files); err != nil {
		return err
	}
	if err := i.multicast(p.Files); err != nil {
		return err
	}
	if err := i.findWatched(p.Files); err != nil {
		return err
	}
	return i.readLinks(p.Files)
}

// judgeFiles is for when it is known what the process shares with others.
func (i *inspector) judgeFiles() error {
	i.judgeClosed(i.process.Files)
	i.judgePipes(i.process.Files)
	return i.judgeUnix(i.process.Files)
}
