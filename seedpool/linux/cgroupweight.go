package linux

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
)

// normalWeight is the weight of a cgroup to which none was given; normalShares is the same in v1.
const (
	normalWeight = 100
	normalShares = 1024
)

// SetCPUWeight says how much CPU time the cgroup and all below it get, beside others that want some, too: 100 is as much as those to which nothing was given. A machine of
// which no hierarchy can weigh the cgroup is no error: it gets as much as others.
func (c Cgroup) SetCPUWeight(weight uint64) error {
	if err := c.notRoot(); err != nil {
		return fmt.Errorf("set CPU weight: %w", err)
	}
	list, err := hierarchies()
	if err != nil {
		return err
	}
	for _, root := range list {
		for file, value := range map[string]uint64{"cpu.weight": weight, "cpu.shares": max(2, weight*normalShares/normalWeight)} {
			err := writeControl(filepath.Join(c.in(root), file), strconv.FormatUint(value, 10))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("set CPU weight of cgroup %s: %w", c.Path, err)
			}
		}
	}
	return nil
}
