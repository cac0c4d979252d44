package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// MoveFrozen moves processes that the v2 freezer holds out of the cgroup into another, which is given as its directory in every hierarchy. They stay frozen when that
// one is frozen.
//
// On a hybrid host v1's freezer holds them as well while they are moved. The kernel wakes a thread that is frozen in v2 at every move in any hierarchy, to have it look
// whether it is to stay so (cgroup_freezer_migrate_task): four hundred wakes for a JVM's forty threads in ten hierarchies. A thread that v1 has frozen sleeps through it, and
// the last move lets it go. In between it does not obey a kill, see Kill. The v2 hierarchy is the first: a move that is cut leaves nothing elsewhere that is not there, too.
func (c Cgroup) MoveFrozen(pids []int, to []string) (err error) {
	root, err := c.legacyFreezer()
	unified, rootErr := UnifiedRoot()
	if err := errors.Join(err, rootErr); err != nil {
		return fmt.Errorf("move processes of cgroup %s: %w", c.Path, err)
	}
	if root == "" {
		return moveAll(pids, to)
	}
	state := filepath.Join(c.in(root), freezerState)
	if err := writeControl(state, "FROZEN"); err != nil {
		return fmt.Errorf("move processes of cgroup %s: %w", c.Path, err)
	}
	defer func() { err = errors.Join(err, writeControl(state, "THAWED")) }()
	rank := func(dir string) int { return rankIn(root, dir) - rankIn(unified, dir) }
	slices.SortFunc(to, func(a, b string) int { return rank(a) - rank(b) })
	return moveAll(pids, to)
}

// rankIn is 1 for what is below a root.
func rankIn(root, dir string) int {
	if strings.HasPrefix(dir, root+"/") {
		return 1
	}
	return 0
}

func moveAll(pids []int, to []string) error {
	for _, dir := range to {
		for _, pid := range pids {
			if err := writeControl(filepath.Join(dir, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
				return fmt.Errorf("move process %d into %s: %w", pid, dir, err)
			}
		}
	}
	return nil
}

// freezerState is what v1's freezer is told, and no other hierarchy has.
const freezerState = "freezer.state"

// legacyFreezer is the root of v1's freezer; empty: the host has no such hierarchy, or the cgroup is not in it.
func (c Cgroup) legacyFreezer() (root string, err error) {
	list, err := hierarchies()
	if err != nil {
		return "", err
	}
	for _, root := range list {
		if _, err := os.Stat(filepath.Join(c.in(root), freezerState)); err == nil {
			return root, nil
		}
	}
	return "", nil
}

// thawLegacy lets go what a move that was cut has left in v1's freezer: of the cgroup itself, and of those that pids are still in there.
func (c Cgroup) thawLegacy(pids []int) error {
	held := []Cgroup{c}
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
		if err != nil {
			continue // it has ended
		}
		for line := range strings.Lines(string(data)) {
			if _, path, ok := strings.Cut(strings.TrimSpace(line), ":freezer:"); ok {
				held = append(held, Cgroup{Path: path})
			}
		}
	}
	for _, cgroup := range held {
		root, err := cgroup.legacyFreezer()
		if err != nil {
			return err
		}
		if root == "" {
			continue
		}
		if err := writeControl(filepath.Join(cgroup.in(root), freezerState), "THAWED"); err != nil && !isGone(err) {
			return fmt.Errorf("thaw cgroup %s: %w", cgroup.Path, err)
		}
	}
	return nil
}
