package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Clocks are the two that a time namespace sets forward or back: their values, or what is added to those of the machine.
type Clocks struct{ Monotonic, Boottime time.Duration }

// Sub is how much later c is.
func (c Clocks) Sub(o Clocks) Clocks {
	return Clocks{c.Monotonic - o.Monotonic, c.Boottime - o.Boottime}
}

// ReadClocks reads those of our own time namespace.
func ReadClocks() (c Clocks, err error) {
	for _, clock := range []struct {
		id int32
		to *time.Duration
	}{{unix.CLOCK_MONOTONIC, &c.Monotonic}, {unix.CLOCK_BOOTTIME, &c.Boottime}} {
		var at unix.Timespec
		if err := unix.ClockGettime(clock.id, &at); err != nil {
			return c, os.NewSyscallError("clock_gettime", err)
		}
		*clock.to = time.Duration(at.Nano())
	}
	return c, nil
}

// TimeOffsets reads what the time namespace of a process's children adds to the machine's clocks. The error is fs.ErrNotExist where the kernel has no time namespaces.
func TimeOffsets(pid int) (c Clocks, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/timens_offsets", pid))
	if err != nil {
		return c, err
	}
	if c, err = parseClocks(string(text)); err != nil {
		return c, fmt.Errorf("read time offsets of process %d: %w", pid, err)
	}
	return c, nil
}

func parseClocks(text string) (c Clocks, err error) {
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			return c, fmt.Errorf("line %q: %w", line, unix.EPROTO)
		}
		to := map[string]*time.Duration{"monotonic": &c.Monotonic, "boottime": &c.Boottime}[fields[0]]
		if to == nil {
			return c, fmt.Errorf("line %q: %w", line, unix.EPROTO)
		}
		seconds, err := strconv.ParseInt(fields[1], 10, 64)
		if err != nil {
			return c, err
		}
		nanos, err := strconv.ParseInt(fields[2], 10, 64)
		if err != nil {
			return c, err
		}
		*to = time.Duration(seconds)*time.Second + time.Duration(nanos)
	}
	return c, nil
}

// String is what is written to /proc/PID/timens_offsets.
func (c Clocks) String() string {
	line := func(name string, d time.Duration) string {
		seconds := d.Nanoseconds() / time.Second.Nanoseconds()
		nanos := d.Nanoseconds() % time.Second.Nanoseconds()
		if nanos < 0 {
			seconds, nanos = seconds-1, nanos+time.Second.Nanoseconds()
		}
		return fmt.Sprintf("%s %d %d\n", name, seconds, nanos)
	}
	return line("monotonic", c.Monotonic) + line("boottime", c.Boottime)
}
