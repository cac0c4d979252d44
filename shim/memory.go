package shim

import (
	"context"

	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool/restore"
)

// holdMemory gets hold of memory that the instance shares with others: the keeper serves it, and this shim when the keeper dies. Without a second hold the
// instance must not run, and when the shim goes the keeper ends it.
func (a *attempt) holdMemory(ctx context.Context) error {
	if a.instance.Memory == "" {
		return nil
	}
	h, err := restore.Hold(ctx, a.instance.Memory, a.cgroup)
	if err != nil {
		return err
	}
	a.memory = h
	a.undo = append(a.undo, func(context.Context) error { return h.Close() })
	return nil
}

// guardMemory ends a task whose memory can no longer be served: it would go on with wrong memory. It returns when the first process has exited.
func (t *wokenTask) guardMemory(ctx context.Context, l *life, exited <-chan struct{}) {
	if l.memory == nil {
		return
	}
	select {
	case <-exited:
	case <-l.memory.Lost():
		log.G(ctx).WithError(l.memory.Err()).WithField("id", t.id).Error("kill task that has lost its memory")
		if err := l.pidfd.Signal(sigkill); err != nil && !ended(err) {
			log.G(ctx).WithError(err).WithField("id", t.id).Error("kill task")
		}
		<-exited
	}
	if err := l.memory.Close(); err != nil {
		log.G(ctx).WithError(err).WithField("id", t.id).Warn("let go of the task's memory")
	}
}
