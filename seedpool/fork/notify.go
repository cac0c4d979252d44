package fork

import (
	"fmt"
	"slices"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// watchNoFollow is IN_DONT_FOLLOW.
const watchNoFollow = 0x02000000

// judgeEvents refuses a descriptor with events to read. Of a process that was restored to be a template they are not its own: it has never run, and nothing waited in its image.
func (i *inspector) judgeEvents(process *linux.Pidfd, f File) error {
	waiting, err := process.EventsWaiting(f.FD)
	if err == nil && waiting > 0 && i.Origin == nil {
		i.refuse(CodeNotify, TryAgain, "descriptor %d has %d bytes of events to read", f.FD, waiting)
	}
	return err
}

// findWatched finds the paths by which the clone is to watch what the process watches.
func (i *inspector) findWatched(files []File) error {
	var all []*linux.Watch
	for n := range files {
		slices.SortFunc(files[n].Notify, func(a, b linux.Watch) int { return a.WD - b.WD })
		for m := range files[n].Notify {
			all = append(all, &files[n].Notify[m])
		}
	}
	if err := linux.FindWatched(i.pid, all); err != nil {
		return err
	}
	for _, f := range files {
		for _, w := range f.Notify {
			if w.Path == "" {
				i.refuse(CodeNotify, "", "descriptor %d watches something to which no path leads, or several", f.FD)
			}
		}
	}
	return nil
}

// planNotify comes when all files are opened: nothing that was done for the clone is an event.
func (p *planner) planNotify() error {
	for _, f := range p.process.Files {
		if f.Kind != KindNotify || f.Same != f.FD {
			continue
		}
		for _, w := range f.Notify {
			p.main.add(call(fmt.Sprintf("have %d number %d", f.FD, w.WD), sysIoctl, uint64(f.FD), linux.InotifySetNextWD, uint64(w.WD)),
				call("watch "+w.Path, sysInotifyAdd, uint64(f.FD), p.string(w.Path), uint64(w.Mask|watchNoFollow)))
		}
	}
	return nil
}
