package shim

import (
	"context"
	"sync"

	"github.com/containerd/cgroups/v3"
	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/oom"
	oomv1 "github.com/containerd/containerd/v2/pkg/oom/v1"
	oomv2 "github.com/containerd/containerd/v2/pkg/oom/v2"
)

// oomWatch publishes TaskOOM for woken tasks, with containerd's own watchers. It begins with the first task and ends with the shim.
type oomWatch struct {
	tasks *wokenTasks

	mu      sync.Mutex
	watcher oom.Watcher // +checklocks:mu
}

// watch begins to watch the cgroup of a task.
func (o *oomWatch) watch(ctx context.Context, id, cgroupPath string) error {
	w, err := o.started(ctx)
	if err != nil {
		return err
	}
	group, err := loadCgroup(cgroupPath)
	if err != nil {
		return err
	}
	return w.Add(id, group)
}

func (o *oomWatch) started(ctx context.Context) (oom.Watcher, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.watcher != nil {
		return o.watcher, nil
	}
	open := oomv1.New
	if cgroups.Mode() == cgroups.Unified {
		open = oomv2.New
	}
	w, err := open(oomPublisher{o.tasks})
	if err != nil {
		return nil, err
	}
	go w.Run(context.WithoutCancel(ctx))
	o.watcher = w
	return w, nil
}

// oomPublisher hands the events of containerd's watchers to the shim's ordered queue. The v1 watcher also fires when a cgroup is
// removed, which happens to stopped tasks only: of those an event counts when the kernel has counted a kill. Of a running task it
// always does: the kernel tells before it kills.
type oomPublisher struct {
	tasks *wokenTasks
}

func (p oomPublisher) Publish(_ context.Context, _ string, event events.Event) error {
	oom, ok := event.(*eventstypes.TaskOOM)
	if !ok {
		return nil
	}
	t := p.tasks.get(oom.ContainerID)
	if t == nil {
		return nil
	}
	if at := t.phaseNow(); at == phaseStopped || at == phaseDeleted {
		if kills, err := t.limits.OOMKillCount(); err != nil || kills == 0 {
			return err
		}
	}
	p.tasks.publish(event)
	return nil
}
