package linux

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// emptyTimeout is how long Remove waits for processes that have been killed to be gone. Writing out a large core or unmapping many gigabytes takes seconds.
const emptyTimeout = 10 * time.Second

// Remove deletes the cgroup and those below it in every hierarchy. Its processes must be ending (Kill): it waits for them, for ten seconds in all, then it
// is EBUSY, and the v2 cgroup still exists. A cgroup that does not exist is no error, so a removal that was interrupted can be repeated.
func (c Cgroup) Remove() error {
	ctx, cancel := context.WithTimeout(context.Background(), emptyTimeout)
	defer cancel()
	return c.remove(ctx)
}

func (c Cgroup) remove(ctx context.Context) error {
	list, err := hierarchies()
	if err != nil {
		return err
	}
	if err := c.notRoot(); err != nil {
		return fmt.Errorf("remove cgroup %q: %w", c.Path, err)
	}
	if err := c.waitEvent(ctx, "populated", "0"); err != nil && !isGone(err) {
		if ctx.Err() != nil {
			err = unix.EBUSY
		}
		return fmt.Errorf("remove cgroup %s: %w", c.Path, err)
	}
	var errs []error
	for _, root := range list {
		if err := removeTree(ctx, c.in(root)); err != nil {
			errs = append(errs, fmt.Errorf("remove cgroup %s: %w", c.Path, err))
		}
	}
	return errors.Join(errs...)
}

// removeTree removes a cgroup directory with those below it. The files in them cannot be removed and go with them.
func removeTree(ctx context.Context, dir string) error {
	for {
		err := os.Remove(dir)
		if err == nil || isGone(err) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		below, err := os.ReadDir(dir)
		if err != nil && !isGone(err) {
			return err
		}
		children := 0
		for _, entry := range below {
			if !entry.IsDir() {
				continue
			}
			children++
			if err := removeTree(ctx, filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
		if children > 0 {
			continue
		}
		if err := waitLeft(ctx, dir); err != nil {
			return err
		}
	}
}

// lookAgain is how often a v1 hierarchy, which has no event for it, is asked whether a cgroup is empty.
const lookAgain = 5 * time.Millisecond

// waitLeft returns when the first process of a busy cgroup has ended, or it is time to look again: a process can leave without ending, and one that is
// reaped but not yet switched out is on no list and keeps its cgroup busy for some microseconds. EBUSY when ctx ends.
func waitLeft(ctx context.Context, dir string) error {
	pids, err := readProcs(dir)
	if err != nil {
		return err
	}
	slice, cancel := context.WithTimeout(ctx, lookAgain)
	defer cancel()
	if len(pids) > 0 {
		if p, err := OpenPidfd(pids[0]); err == nil {
			// Ended or not, the directory tells.
			_ = p.Wait(slice)
			_ = p.Close()
		}
	} else {
		<-slice.Done()
	}
	if ctx.Err() != nil {
		return &os.PathError{Op: "rmdir", Path: dir, Err: unix.EBUSY}
	}
	return nil
}
