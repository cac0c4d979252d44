package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// AvailableMemory is how many bytes could be used before the machine has to swap, as the kernel estimates it (proc(5), MemAvailable).
func AvailableMemory() (uint64, error) {
	const path = "/proc/meminfo"
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if fields := bytes.Fields(line); len(fields) == 3 && string(fields[0]) == "MemAvailable:" {
			kib, err := strconv.ParseUint(string(fields[1]), 10, 54)
			return kib << 10, err
		}
	}
	return 0, fmt.Errorf("parse %s: no MemAvailable", path)
}

// MemoryStall is for how long, since the machine was booted, some task has waited for memory (PSI, Linux 4.20). It is 0 on a kernel that does not know.
func MemoryStall() (time.Duration, error) {
	const path = "/proc/pressure/memory"
	data, err := os.ReadFile(path)
	if err != nil {
		// EOPNOTSUPP: it was switched off when the kernel was started.
		return 0, nil
	}
	for line := range strings.Lines(string(data)) {
		kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
		_, total, found := strings.Cut(rest, "total=")
		if kind == "some" && found {
			usec, err := strconv.ParseInt(total, 10, 64)
			return time.Duration(usec) * time.Microsecond, err
		}
	}
	return 0, fmt.Errorf("parse %s: no total", path)
}

// memoryFiles are where a memory cgroup says what it has, and what it and those above it may have; v2's are last, as in Hierarchies.
var memoryFiles = []struct{ current, limit string }{
	{"memory.usage_in_bytes", "memory.limit_in_bytes"},
	{"memory.current", "memory.max"},
}

// Memory is what is charged to the cgroup and those below it, and the least that it or one above it may have, in bytes; limit 0: there is none. Both are 0 where memory is not
// accounted.
func (c Cgroup) Memory() (used, limit uint64, err error) {
	list, err := hierarchies()
	if err != nil {
		return 0, 0, err
	}
	for _, root := range list {
		for _, files := range memoryFiles {
			used, err := readBytes(filepath.Join(c.in(root), files.current))
			if errors.Is(err, os.ErrNotExist) {
				continue
			}
			if err != nil {
				return 0, 0, fmt.Errorf("read memory of cgroup %s: %w", c.Path, err)
			}
			limit, err := c.leastLimit(root, files.limit)
			return used, limit, err
		}
	}
	return 0, 0, nil
}

// leastLimit is the least of the limits of the cgroup and those above it.
func (c Cgroup) leastLimit(root, file string) (least uint64, err error) {
	for dir := c.in(root); dir != root; dir = filepath.Dir(dir) {
		limit, err := readBytes(filepath.Join(dir, file))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("read memory limit of cgroup %s: %w", c.Path, err)
		}
		if limit != 0 && (least == 0 || limit < least) {
			least = limit
		}
	}
	return least, nil
}

// unlimited is more than any machine has: v1 says "no limit" with the largest number of whole pages.
const unlimited = 1 << 62

// readBytes reads a file with one number; 0 stands for no limit.
func readBytes(path string) (uint64, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	text := strings.TrimSpace(string(data))
	if text == "max" {
		return 0, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n >= unlimited {
		return 0, err
	}
	return n, nil
}
