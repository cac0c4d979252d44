package shim

import (
	"context"
	"sync"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/oom"
	oomv1 "github.com/containerd/containerd/v2/pkg/oom/v1"
	oomv2 "github.com/containerd/containerd/v2/pkg/oom/v2"
)

// oomWatch publishes TaskOOM for woken tasks, with containerd's own watchers. It begins with the first task and ends with the shim.
type oomWatch struct {
	publish func(event any)

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
	w, err := open(queued(o.publish))
	if err != nil {
		return nil, err
	}
	go w.Run(context.WithoutCancel(ctx))
	o.watcher = w
	return w, nil
}

// queued hands the events of containerd's watchers to the shim's ordered queue, which finds their topics itself.
type queued func(event any)

func (q queued) Publish(_ context.Context, _ string, event events.Event) error {
	q(event)
	return nil
}
