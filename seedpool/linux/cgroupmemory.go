package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// memoryFiles are where a memory cgroup says what it has, and what it may have; v2's are last.
var memoryFiles = []struct{ current, limit string }{
	{"memory.usage_in_bytes", "memory.limit_in_bytes"},
	{"memory.current", "memory.max"},
}

// Memory is what is charged to the cgroup and those below it, also to those that were removed since, and the least that it or one above it may have, in bytes; limit 0: there
// is none. Both are 0 where memory is not accounted, and for a cgroup that does not exist.
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
			if err == nil {
				limit, err = c.leastLimit(root, files.limit)
			}
			if err != nil {
				return 0, 0, fmt.Errorf("read memory of cgroup %s: %w", c.Path, err)
			}
			return used, limit, nil
		}
	}
	return 0, 0, nil
}

// leastLimit is the least of the limits of the cgroup and those above it.
func (c Cgroup) leastLimit(root, file string) (least uint64, err error) {
	for dir := c.in(root); dir != root; dir = filepath.Dir(dir) {
		limit, err := readBytes(filepath.Join(dir, file))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return 0, err
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
