package fork

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// info is /proc/PID/fdinfo/FD.
type info struct {
	pos       int64
	flags     int
	ino       uint64
	count     uint64
	semaphore bool
	watches   []Watch
	clock     int
	ticks     uint64
	settime   int
	timer     Interval
	mask      uint64
	notify    []linux.Watch
	// unknown lines: the descriptor has something that cannot be carried over, a file lock for one.
	unknown []string
}

func parseFdinfo(text string) (i info, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		if err := i.set(name, strings.TrimSpace(value), line); err != nil {
			return i, fmt.Errorf("line %q: %w", line, err)
		}
	}
	return i, nil
}

func (i *info) set(name, value, line string) (err error) {
	switch name {
	case "pos":
		i.pos, err = strconv.ParseInt(value, 10, 64)
	case "flags":
		var flags uint64
		flags, err = strconv.ParseUint(value, 8, 31)
		i.flags = int(flags)
	case "ino":
		i.ino, err = strconv.ParseUint(value, 10, 64)
	case "eventfd-count":
		i.count, err = strconv.ParseUint(value, 16, 64)
	case "eventfd-semaphore":
		i.semaphore = value != "0"
	case "tfd":
		var w Watch
		w, err = parseWatch(value)
		i.watches = append(i.watches, w)
	case "clockid":
		i.clock, err = strconv.Atoi(value)
	case "ticks":
		i.ticks, err = strconv.ParseUint(value, 10, 64)
	case "settime flags":
		var flags uint64
		flags, err = strconv.ParseUint(value, 8, 31)
		i.settime = int(flags)
	case "it_value":
		i.timer.Value, err = parseSpan(value)
	case "it_interval":
		i.timer.Every, err = parseSpan(value)
	case "sigmask":
		i.mask, err = strconv.ParseUint(value, 16, 64)
	case "inotify wd":
		var w linux.Watch
		w, err = linux.ParseWatch(line)
		i.notify = append(i.notify, w)
	case "mnt_id", "eventfd-id":
	case "scm_fds":
		if value != "0" {
			i.unknown = append(i.unknown, line)
		}
	default:
		i.unknown = append(i.unknown, line)
	}
	return err
}

// parseWatch reads what follows "tfd:", as fs/eventpoll.c prints it.
func parseWatch(value string) (w Watch, err error) {
	fields := strings.Fields(strings.NewReplacer("events:", " ", "data:", " ", "pos:", " ", "ino:", " ", "sdev:", " ").Replace(value))
	if len(fields) != 6 {
		return w, fmt.Errorf("%d fields, want 6", len(fields))
	}
	if w.FD, err = strconv.Atoi(fields[0]); err != nil {
		return w, err
	}
	events, err := strconv.ParseUint(fields[1], 16, 32)
	if err != nil {
		return w, err
	}
	w.Events = uint32(events)
	if w.Data, err = strconv.ParseUint(fields[2], 16, 64); err != nil {
		return w, err
	}
	w.Inode, err = strconv.ParseUint(fields[4], 16, 64)
	return w, err
}

// parseSpan reads "(seconds, nanoseconds)".
func parseSpan(value string) (time.Duration, error) {
	seconds, nanos, ok := strings.Cut(strings.Trim(value, "()"), ",")
	if !ok {
		return 0, strconv.ErrSyntax
	}
	s, err := strconv.ParseInt(seconds, 10, 33)
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseInt(strings.TrimSpace(nanos), 10, 31)
	if err != nil {
		return 0, err
	}
	if s < 0 || n < 0 {
		return 0, strconv.ErrRange
	}
	return time.Duration(s)*time.Second + time.Duration(n), nil
}
