package restore

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/vma"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// stores are CRIU's names of a memory's stores: files of which it is to say no more, when it makes an image of the instance.
func (m *Memory) stores() (names []string, err error) {
	for _, t := range m.hot.tasks {
		_, name, err := externalName(t.file)
		if err != nil {
			return nil, fmt.Errorf("name store %s: %w", t.name, err)
		}
		names = append(names, name)
	}
	return names, nil
}

// unshare makes an image, as CRIU has written it, of processes that share their memory one of processes with memory of their own: mappings of a store, whose names are given,
// become anonymous ones. CRIU has left out the pages that are the store's, and does not say which of those a process still has: one that it has dropped, or never had, is to
// be zero. So their page tables are asked, and the pages taken from there. They must stand, from before the image was begun until this returns.
func unshare(imagesDir string, first int, stores []string) error {
	files, err := readFiles(imagesDir)
	if err != nil {
		return err
	}
	ids := make(map[uint64]bool)
	for _, f := range files {
		if reg := f.GetReg(); reg.GetExt() && slices.Contains(stores, reg.GetName()) {
			ids[uint64(f.GetId())] = true
		}
	}
	pids, err := innermost(first)
	if err != nil {
		return err
	}
	tasks, err := readTasks(imagesDir)
	if err != nil {
		return err
	}
	for _, t := range tasks {
		if err := t.unshare(imagesDir, pids[t.pid], ids); err != nil {
			return fmt.Errorf("unshare memory of task %d: %w", t.pid, err)
		}
	}
	files = slices.DeleteFunc(files, func(f *fdinfo.FileEntry) bool { return ids[uint64(f.GetId())] })
	return writeImage(filepath.Join(imagesDir, "files.img"), "FILES", asMessages(files)...)
}

// innermost are the processes of a container by their numbers in its own pid namespace, as an image has them.
func innermost(first int) (map[uint32]int, error) {
	list, err := family(first)
	if err != nil {
		return nil, err
	}
	pids := make(map[uint32]int)
	for _, pid := range list {
		inner, err := linux.InnermostPID(pid)
		if err != nil {
			return nil, err
		}
		pids[uint32(inner)] = pid
	}
	return pids, nil
}

// unshare has a task's image say that what is mapped of a store is its own.
func (t *imageTask) unshare(dir string, pid int, stores map[uint64]bool) error {
	var guards, pages []linux.PageRange
	var shared []*vma.VmaEntry
	for _, v := range t.mm.GetVmas() {
		switch {
		case v.GetStatus()&statusGuard != 0:
			guards = append(guards, linux.PageRange{From: v.GetStart(), To: v.GetEnd()})
		case v.GetStatus()&statusFilePrivate != 0 && stores[v.GetShmid()]:
			shared = append(shared, v)
		}
	}
	if len(shared) == 0 {
		return nil
	}
	if pid == 0 {
		return errors.New("it is no process")
	}
	for _, v := range shared {
		has, err := linux.Pages(pid, v.GetStart(), v.GetEnd())
		if err != nil {
			return err
		}
		pages = append(pages, has...)
		asAnonymous(v)
	}
	var own []linux.PageRange
	for _, r := range t.runs {
		own = append(own, linux.PageRange{From: r.address, To: r.end()})
	}
	if err := t.addPages(dir, pid, without(without(pages, guards), own)); err != nil {
		return err
	}
	return writeImage(filepath.Join(dir, t.files[0]), "MM", &t.mm)
}

// asAnonymous undoes conversion.share.
func asAnonymous(v *vma.VmaEntry) {
	v.Flags = proto.Uint32(v.GetFlags() | syscall.MAP_ANONYMOUS)
	v.Status = proto.Uint32(v.GetStatus()&^statusFilePrivate | statusAnonPrivate)
	v.Shmid, v.Pgoff, v.Fdflags = proto.Uint64(0), proto.Uint64(0), nil
}

// without is what is left of ranges, in the order of addresses, when others are taken out.
func without(list, out []linux.PageRange) (left []linux.PageRange) {
	for _, r := range list {
		for len(out) > 0 && out[0].To <= r.From {
			out = out[1:]
		}
		for _, o := range out {
			if o.From >= r.To {
				break
			}
			if o.From > r.From {
				left = append(left, linux.PageRange{From: r.From, To: o.From})
			}
			r.From = min(o.To, r.To)
		}
		if r.From < r.To {
			left = append(left, r)
		}
	}
	return left
}

// addPages adds pages, which the image has not, of a process's memory.
func (t *imageTask) addPages(dir string, pid int, add []linux.PageRange) (err error) {
	name := filepath.Join(dir, t.pagesFile())
	old, err := os.OpenFile(name, os.O_RDONLY|os.O_CREATE, 0o600) // there is none if the process has no page of its own
	if err != nil {
		return err
	}
	defer old.Close()
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer memory.Close()
	f, err := os.OpenFile(name+".new", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(f, blockPages*pageSize)
	entries, err := t.merge(out, old, memory, add)
	if err := errors.Join(err, out.Flush(), f.Close()); err != nil {
		return err
	}
	return errors.Join(os.Rename(name+".new", name), writeImage(filepath.Join(dir, t.files[1]), "PAGEMAP", entries...))
}

// merge writes the pages of the image and those of memory in the order of addresses, and makes the pagemap of all.
func (t *imageTask) merge(out io.Writer, image, memory io.ReaderAt, add []linux.PageRange) ([]proto.Message, error) {
	type part struct {
		pageRun
		of io.ReaderAt
		at uint64
	}
	var parts []part
	for _, r := range t.runs {
		parts = append(parts, part{r, image, r.from * pageSize})
	}
	for _, r := range add {
		parts = append(parts, part{pageRun{address: r.From, pages: (r.To - r.From) / pageSize}, memory, r.From})
	}
	slices.SortFunc(parts, func(a, b part) int { return cmp.Compare(a.address, b.address) })
	entries := []proto.Message{&t.head}
	for _, p := range parts {
		size := int64(p.pages * pageSize)
		if _, err := io.CopyN(out, io.NewSectionReader(p.of, int64(p.at), size), size); err != nil {
			return nil, fmt.Errorf("read pages at %#x: %w", p.address, err)
		}
		entries = append(entries, keptEntry(p.pageRun))
	}
	return entries, nil
}
