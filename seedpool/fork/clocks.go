package fork

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const cloneNewTime = 0x80

// clocks of a template stand still: a clone's go on from where they were when the template was stopped, whatever its age. Without time namespaces they jump by it.
type clocks struct {
	// stopped is what the machine's clocks were then, and offsets what the template's time namespace adds.
	stopped, offsets linux.Clocks
	none             bool
}

// readClocks is for a process whose threads are all stopped.
func readClocks(pid int) (c clocks, err error) {
	if c.stopped, err = linux.ReadClocks(); err != nil {
		return c, err
	}
	c.offsets, err = linux.TimeOffsets(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return clocks{none: true}, nil
	}
	if err != nil {
		return c, fmt.Errorf("read clocks of process %d: %w", pid, err)
	}
	return c, nil
}

// now are the offsets of a clone that is made now.
func (c clocks) now() (*linux.Clocks, error) {
	if c.none {
		return nil, nil
	}
	now, err := linux.ReadClocks()
	if err != nil {
		return nil, err
	}
	offsets := c.offsets.Sub(now.Sub(c.stopped))
	return &offsets, nil
}

// setClocks gives the zygote's next child a new time namespace. The zygote's own clocks stay what they are. What fails here would end the zygote, and shows in the clone's
// offsets (checkClocks).
func (p *Program) setClocks(r *program, s Sandbox) []Op {
	if s.clocks == nil {
		return nil
	}
	file, text := uint64(p.FDBase+fdOffsets), s.clocks.String()
	return []Op{
		call("make a time namespace", sysUnshare, cloneNewTime).with(FlagIgnore),
		call("begin with the offsets", sysLseek, file).with(FlagIgnore),
		call("set its clocks", sysWrite, file, r.string(text), uint64(len(text))).with(FlagIgnore),
	}
}

// joinClocks gives the children of a clone its time namespace: their zygote enters it, since a helper, which shares the zygote's memory, could not.
func (p *Program) joinClocks(s Sandbox) []Op {
	if s.clocks == nil {
		return nil
	}
	return []Op{call("join the time namespace", sysSetns, uint64(p.FDBase+fdInit), cloneNewTime).with(FlagIgnore)}
}

// checkClocks makes sure that a process of a clone has the clocks that it should have.
func checkClocks(pid int, s Sandbox) error {
	if s.clocks == nil {
		return nil
	}
	got, err := linux.TimeOffsets(pid)
	if err == nil && got != *s.clocks {
		err = fmt.Errorf("clone has clocks that are off by %v, not %v: %w", got, *s.clocks, errors.ErrUnsupported)
	}
	return err
}
