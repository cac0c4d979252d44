package shim

import (
	"context"
	"sync"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// eventQueue hands events to containerd one after the other, in the order in which they were added. It takes those of woken tasks by add and, as the publisher that
// the runc task service has, those of cold ones. It is unbounded: adding must not wait for a containerd that is being restarted.
type eventQueue struct {
	publisher shim.Publisher
	drained   chan struct{}

	mu     sync.Mutex
	more   sync.Cond                          // on mu
	queue  []any                              // +checklocks:mu
	closed bool                               // +checklocks:mu
	exited map[string]bool                    // +checklocks:mu: containers whose TaskExit was queued and whose TaskDelete was not
	held   map[string]*eventstypes.TaskDelete // +checklocks:mu: by container
}

// newEventQueue begins to publish; ctx has the namespace of the events.
func newEventQueue(ctx context.Context, publisher shim.Publisher) *eventQueue {
	q := &eventQueue{publisher: publisher, drained: make(chan struct{}), exited: make(map[string]bool), held: make(map[string]*eventstypes.TaskDelete)}
	q.more.L = &q.mu
	go q.run(ctx)
	return q
}

// add queues one event. The runc task service tells those who wait that a task has ended a moment before it publishes the exit; a client that is quick to
// delete would have the deletion published first, so that one is held until the exit is there.
func (q *eventQueue) add(event any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	defer q.more.Signal()
	switch e := event.(type) {
	case *eventstypes.TaskExit:
		q.queue = append(q.queue, e)
		if e.ID != e.ContainerID {
			return
		}
		if gone := q.held[e.ContainerID]; gone != nil {
			delete(q.held, e.ContainerID)
			q.queue = append(q.queue, gone)
			return
		}
		q.exited[e.ContainerID] = true
	case *eventstypes.TaskDelete:
		if !q.exited[e.ContainerID] {
			q.held[e.ContainerID] = e
			return
		}
		delete(q.exited, e.ContainerID)
		q.queue = append(q.queue, e)
	default:
		q.queue = append(q.queue, event)
	}
}

// Publish queues one event of the runc task service; the topic is that of its type.
func (q *eventQueue) Publish(_ context.Context, _ string, event events.Event) error {
	q.add(event)
	return nil
}

// Close lets the queue end once it is empty, which drained tells.
func (q *eventQueue) Close() error {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for _, gone := range q.held {
		q.queue = append(q.queue, gone)
	}
	clear(q.held)
	q.more.Signal()
	return nil
}

func (q *eventQueue) run(ctx context.Context) {
	defer close(q.drained)
	for {
		event, ok := q.next()
		if !ok {
			break
		}
		// A publisher that fails has kept the event and tries again.
		if err := q.publisher.Publish(ctx, runtime.GetTopic(event), event); err != nil {
			log.G(ctx).WithError(err).Warn("publish event")
		}
	}
	if err := q.publisher.Close(); err != nil {
		log.G(ctx).WithError(err).Debug("close publisher")
	}
}

func (q *eventQueue) next() (event any, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for len(q.queue) == 0 && !q.closed {
		q.more.Wait()
	}
	if len(q.queue) == 0 {
		return nil, false
	}
	event, q.queue = q.queue[0], q.queue[1:]
	return event, true
}
