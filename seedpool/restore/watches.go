package restore

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fh"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// What inotify descriptors watch is kept beside CRIU's own files, and given back by us. CRIU finds what a watch is on in few places of an overlay only, forgets IN_ONESHOT and
// IN_EXCL_UNLINK, loses a watch of the root directory, and lets the app read of what it does itself in a directory that is watched.

// ErrWatches is wrapped when an app cannot be dumped for what it watches.
var ErrWatches = errors.New("what the app watches by inotify cannot be kept")

// watchesFile is the image file with all watches; there is none if there are none.
const watchesFile = "watches.json"

// watching is one descriptor with its watches; PID as the process itself sees it.
type watching struct {
	PID, FD int
	Watches []linux.Watch
	pid     int // as we see it
}

// readWatches reads what the processes of a container watch, which can be found where it is.
func readWatches(pid int) (list []watching, err error) {
	pids, err := family(pid)
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		own, err := linux.InnermostPID(pid)
		if err != nil {
			return nil, err
		}
		first := len(list)
		for name, link := range openFiles(strconv.Itoa(pid)) {
			if link != "anon_inode:inotify" {
				continue
			}
			w := watching{PID: own, pid: pid}
			if w.FD, err = strconv.Atoi(name); err != nil {
				return nil, err
			}
			if w.Watches, err = watchesOf(pid, w.FD); err != nil {
				return nil, fmt.Errorf("watches of file %d of process %d: %w", w.FD, own, err)
			}
			list = append(list, w)
		}
		if err := find(pid, list[first:]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// watchesOf reads one descriptor.
func watchesOf(pid, fd int) (list []linux.Watch, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%d", pid, fd))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(data)) {
		if !strings.HasPrefix(line, "inotify ") {
			continue
		}
		w, err := linux.ParseWatch(strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		list = append(list, w)
	}
	slices.SortFunc(list, func(a, b linux.Watch) int { return a.WD - b.WD })
	return list, nil
}

// find looks for what the descriptors of a process watch.
func find(pid int, list []watching) error {
	var all []*linux.Watch
	for _, w := range list {
		for n := range w.Watches {
			all = append(all, &w.Watches[n])
		}
	}
	if err := linux.FindWatched(pid, all); err != nil {
		return err
	}
	for _, w := range all {
		if w.Path == "" {
			return fmt.Errorf("watch %d is on something to which no path leads, or several: %w", w.WD, ErrWatches)
		}
	}
	return nil
}

// hintsFile, in the work directory, is where CRIU looks first for what a watch is on.
const (
	hintsFile = "irmap-cache"
	hintsKind = "IRMAP_CACHE"
)

// hintWatches tells CRIU what is watched where: it would open directories to find out, of which an app that watches them is told.
func hintWatches(pid int, dir string) error {
	list, err := readWatches(pid)
	if err != nil {
		return err
	}
	var hints []proto.Message
	for _, w := range list {
		for _, one := range w.Watches {
			name := one.Path
			if name == "/" {
				name = "/." // it takes the first letter away
			}
			hints = append(hints, &fh.IrmapCacheEntry{Dev: proto.Uint32(one.KernelDevice()), Inode: proto.Uint64(one.Inode), Path: proto.String(name)})
		}
	}
	if len(hints) == 0 {
		return nil
	}
	return writeImage(filepath.Join(dir, hintsFile), hintsKind, hints...)
}

// keepWatches moves the watches of a stopped container, of which nothing may be left to be read, from CRIU's image to ours.
func keepWatches(pid int, dir string) error {
	list, err := readWatches(pid)
	if err != nil || len(list) == 0 {
		return err
	}
	for _, w := range list {
		if err := w.quiet(); err != nil {
			return err
		}
	}
	data, err := json.Marshal(list)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, watchesFile), data, 0o600); err != nil {
		return err
	}
	var files []proto.Message
	err = entries(filepath.Join(dir, "files.img"), func(data []byte) error {
		f := new(fdinfo.FileEntry)
		files = append(files, f)
		if err := decoded("files.img", data, f); err != nil || f.Ify == nil {
			return err
		}
		f.Ify.Wd = nil
		return nil
	})
	if err != nil {
		return err
	}
	return writeImage(filepath.Join(dir, "files.img"), "FILES", files...)
}

// quiet refuses a descriptor with something to read, which no image holds.
func (w watching) quiet() error {
	return w.with(w.pid, func(p *linux.Pidfd) error {
		waiting, err := p.EventsWaiting(w.FD)
		if err == nil && waiting > 0 {
			err = fmt.Errorf("file %d of process %d has events to read: %w", w.FD, w.PID, ErrWatches)
		}
		return err
	})
}

func (w watching) with(pid int, fn func(*linux.Pidfd) error) error {
	p, err := linux.OpenPidfd(pid)
	if err != nil {
		return err
	}
	return errors.Join(fn(p), p.Close())
}

// watch gives an instance that stands complete its watches.
func (r *restoring) watch() error {
	data, err := os.ReadFile(filepath.Join(r.o.ImagesDir, watchesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var list []watching
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("%s: %w: %w", watchesFile, err, ErrImage)
	}
	pids, err := r.o.Cgroup.Procs()
	if err != nil {
		return err
	}
	own := make(map[int]int)
	for _, pid := range pids {
		n, err := linux.InnermostPID(pid)
		if err != nil {
			return err
		}
		own[n] = pid
	}
	for _, w := range list {
		if r.template != nil {
			w.PID += templateBase
		}
		if err := w.with(own[w.PID], func(p *linux.Pidfd) error { return p.AddWatches(w.FD, w.Watches) }); err != nil {
			return fmt.Errorf("give file %d of process %d its watches: %w", w.FD, w.PID, err)
		}
	}
	return nil
}
