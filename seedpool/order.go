package seedpool

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"
	"google.golang.org/protobuf/encoding/protojson"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// orderEvery is the pause between two looks at what nobody reports: shims that died, removals that failed, tasks that were deleted. Each could be waited for, by
// a pidfd or inotify, but there is nothing to gain by being early.
const orderEvery = 5 * time.Second

// keepOrder looks after instances that have left the pool, and after keepers: one that an earlier sproutd has started may have come up, or have finished an
// instance, only after we looked. It returns when ctx ends.
func (p *Pool) keepOrder(ctx context.Context) {
	tick := time.NewTicker(orderEvery)
	defer tick.Stop()
	for {
		if err := errors.Join(p.orderInstances(ctx, time.Now()), p.recoverKeepers(ctx), p.orderStarts()); err != nil {
			log.G(ctx).WithError(err).Warn("keep order")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// orderInstances finishes removals, destroys instances that their shims will never bind, and forgets those whose task is gone.
func (p *Pool) orderInstances(ctx context.Context, now time.Time) error {
	p.mu.Lock()
	var all []*instance
	for _, i := range p.instances {
		all = append(all, i)
	}
	p.mu.Unlock()
	p.point("order instances")
	var errs []error
	for _, i := range all {
		row := p.rowOf(i)
		var err error
		switch phase(row.Phase) {
		case phaseDying:
			err = p.destroyAlone(ctx, i, fatePlain)
		case phaseClaimed:
			err = p.orderClaimed(ctx, i, row, now)
		case phaseBound:
			err = p.orderBound(ctx, i, row)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// orderClaimed decides about an instance whose shim has not said Bound. One that runs was bound: the word got lost while sproutd was away. Else it is destroyed
// when the shim is dead, or when its time is up and the instance is dead or the shim did not say who it is.
func (p *Pool) orderClaimed(ctx context.Context, i *instance, row *api.InstanceRow, now time.Time) error {
	known := row.ShimPid != 0
	if (!known || shimAlive(row)) && now.Sub(time.Unix(0, row.ClaimedUnixNanoseconds)) < time.Duration(p.config.BindTimeout) {
		return nil
	}
	alive := linux.Alive(int(row.Instance.Pid), row.Instance.StartTime)
	if alive {
		frozen, err := isFrozen(int(row.Instance.Pid))
		if err != nil {
			return err
		}
		if !frozen {
			return p.bound(i)
		}
	}
	if alive && shimAlive(row) {
		return nil
	}
	log.G(ctx).WithFields(log.Fields{"id": i.id, "ns": row.Namespace, "seed": i.seed}).Warn("destroy instance that was never bound")
	return p.destroyAlone(ctx, i, fatePlain)
}

// orderBound forgets an instance when its process has ended and its task is deleted, or can be deleted by nobody any more.
func (p *Pool) orderBound(ctx context.Context, i *instance, row *api.InstanceRow) error {
	if linux.Alive(int(row.Instance.Pid), row.Instance.StartTime) {
		return p.awake(ctx, i)
	}
	_, err := os.Lstat(p.paths.InstanceDir(i.id))
	if err == nil && shimAlive(row) {
		return nil
	}
	return p.destroyAlone(ctx, i, fateKeep)
}

// shimAlive says whether the shim that claimed an instance runs. One that did not say who it is counts as dead.
func shimAlive(row *api.InstanceRow) bool {
	return row.ShimPid != 0 && linux.Alive(int(row.ShimPid), row.ShimStartTime)
}

// isFrozen says whether a process is in a frozen cgroup, wherever it has been moved.
func isFrozen(pid int) (bool, error) {
	where, err := linux.UnifiedPath(pid)
	if err != nil {
		return false, err
	}
	return linux.Cgroup{Path: where}.Frozen()
}

// bound makes an instance its shim's.
func (p *Pool) bound(i *instance) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i.phase() == phaseBound {
		return nil // the shim asks again: our first answer was lost
	}
	return p.changeLocked(i, phaseBound, nil)
}

// orderStarts removes the records of starts whose shim has died: a shim that lives removes them itself, with the task.
func (p *Pool) orderStarts() error {
	return p.eachStart("", func(file string, start *api.Start) error {
		if start.ShimPid == 0 || !errors.Is(syscall.Kill(int(start.ShimPid), 0), syscall.ESRCH) {
			return nil
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}

// eachStart calls do for the record of each start of a namespace; an empty one is all. What is no
// record, or is just being written or removed, is passed over.
func (p *Pool) eachStart(namespace string, do func(file string, start *api.Start) error) error {
	return eachName(p.paths.StartsDir(), func(ns string) error {
		if namespace != "" && ns != namespace {
			return nil
		}
		return eachName(filepath.Join(p.paths.StartsDir(), ns), func(name string) error {
			file := filepath.Join(p.paths.StartsDir(), ns, name)
			if strings.HasPrefix(name, ".") || filepath.Ext(name) != ".json" {
				return nil
			}
			data, err := os.ReadFile(file)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			start := new(api.Start)
			if protojson.Unmarshal(data, start) != nil {
				return nil
			}
			return do(file, start)
		})
	})
}
