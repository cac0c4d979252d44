package fork

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// PosixTimer is a timer of timer_create(2).
type PosixTimer struct {
	ID, Clock, Signal int
	// Notify is SIGEV_*; with SIGEV_THREAD_ID, Tid is the thread that gets the signal, as /proc counts.
	Notify, Tid int
	// Thread is that thread in Process.Threads.
	Thread int
	// Value comes with the signal.
	Value uint64
	Timer Interval
}

const (
	sigevSignal, sigevNone, sigevThread, sigevThreadID = 0, 1, 2, 4
	sizeofItimerspec                                   = 32
	clockThread, clockTAI                              = 3, 11
	// timerIDs is how far the clone counts to give its timers the numbers that they have.
	timerIDs = 1000
)

var notifications = map[string]int{"signal": sigevSignal, "none": sigevNone, "thread": sigevThread}

// parseTimers reads /proc/PID/timers, as fs/proc/base.c prints it.
func parseTimers(text string) (list []PosixTimer, err error) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		if name == "ID" {
			list = append(list, PosixTimer{Clock: -1})
		}
		if len(list) == 0 {
			return nil, fmt.Errorf("line %q: no timer", line)
		}
		if err := list[len(list)-1].set(name, value); err != nil {
			return nil, fmt.Errorf("line %q: %w", line, err)
		}
	}
	slices.SortFunc(list, func(a, b PosixTimer) int { return cmp.Compare(a.ID, b.ID) })
	return list, nil
}

func (t *PosixTimer) set(name, value string) (err error) {
	switch name {
	case "ID":
		t.ID, err = strconv.Atoi(value)
	case "ClockID":
		t.Clock, err = strconv.Atoi(value)
	case "signal":
		signal, data, _ := strings.Cut(value, "/")
		if t.Signal, err = strconv.Atoi(signal); err != nil {
			return err
		}
		t.Value, err = strconv.ParseUint(strings.TrimPrefix(data, "0x"), 16, 64)
	case "notify":
		how, whom, _ := strings.Cut(value, "/")
		notify, known := notifications[how]
		kind, id, _ := strings.Cut(whom, ".")
		if !known || kind != "pid" && kind != "tid" {
			return strconv.ErrSyntax
		}
		if t.Notify = notify; kind == "tid" {
			t.Notify |= sigevThreadID
		}
		t.Tid, err = strconv.Atoi(id)
	}
	return err
}

// readTimers reads POSIX timers, with the time that is left of each.
func (i *inspector) readTimers(ctx context.Context, p *Process) error {
	text, err := i.read("timers")
	if err != nil {
		return err
	}
	if p.Timers, err = parseTimers(text); err != nil {
		return err
	}
	for n := range p.Timers {
		t := &p.Timers[n]
		if t.Clock < 0 || t.Clock == clockThread || t.Clock > clockTAI || t.ID >= timerIDs {
			i.refuse(CodeTimer, "", "timer %d of clock %d: its clock is a thread's, or its number too high to count to", t.ID, t.Clock)
			continue
		}
		if t.Notify&sigevThreadID != 0 {
			t.Thread = slices.IndexFunc(i.Threads, func(o *ptrace.Tracee) bool { return o.Tid == t.Tid })
			if t.Thread < 0 {
				i.refuse(CodeTimer, "", "timer %d signals thread %d, which is none of the process", t.ID, t.Tid)
				continue
			}
		}
		b, err := i.ask(ctx, i.Threads[0], sizeofItimerspec, sysTimerGettime, uint64(t.ID), i.Scratch)
		if err != nil {
			return err
		}
		span := func(at int) time.Duration {
			return time.Duration(binary.LittleEndian.Uint64(b[at:]))*time.Second + time.Duration(binary.LittleEndian.Uint64(b[at+8:]))
		}
		t.Timer = Interval{Every: span(0), Value: span(16)}
	}
	return nil
}

// planTimers: the kernel counts the timers of a process, so the clone makes and deletes those whose numbers are not in use. Setting a timer by its number shows that it is
// that one. Threads that get signals must be there.
func (p *planner) planTimers() {
	next := 0
	for _, t := range p.process.Timers {
		for ; next < t.ID; next++ {
			p.main.add(call("count timers", sysTimerCreate, 0, p.event(PosixTimer{Notify: sigevNone}), p.temp),
				call("delete it", sysTimerDelete, uint64(next)))
		}
		p.main.add(call("make a timer", sysTimerCreate, uint64(t.Clock), p.event(t), p.temp),
			call("set it", sysTimerSettime, uint64(t.ID), 0, p.words(append(timespec(t.Timer.Every), timespec(t.Timer.Value)...)...)))
		next++
	}
}

// event is a struct sigevent.
func (p *planner) event(t PosixTimer) uint64 {
	tid := 0
	if t.Notify&sigevThreadID != 0 {
		tid = p.process.Threads[t.Thread].Tid
	}
	return p.words(t.Value, uint64(uint32(t.Signal))|uint64(t.Notify)<<32, uint64(tid), 0, 0, 0, 0, 0)
}
