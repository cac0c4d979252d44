package shim

import (
	"context"
	"errors"
	"sync"
	"testing"

	eventstypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/google/go-cmp/cmp"
)

// memory is a publisher that keeps what it is given.
type memory struct {
	mu     sync.Mutex
	got    []string
	fails  bool
	closed bool
}

func (m *memory) Publish(_ context.Context, topic string, event events.Event) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	exit, ok := event.(*eventstypes.TaskExit)
	if !ok || topic != "/tasks/exit" {
		return errors.New("another event")
	}
	m.got = append(m.got, exit.ID)
	if m.fails {
		return errors.New("containerd is away")
	}
	return nil
}

func (m *memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

func TestEventsOfWokenAndColdTasksAreKeptInOrder(t *testing.T) {
	for _, fails := range []bool{false, true} {
		to := &memory{fails: fails}
		q := newEventQueue(t.Context(), to)
		q.add(&eventstypes.TaskExit{ID: "woken 1"})
		if err := q.Publish(t.Context(), "", &eventstypes.TaskExit{ID: "cold"}); err != nil {
			t.Fatal(err)
		}
		q.add(&eventstypes.TaskExit{ID: "woken 2"})
		if err := q.Close(); err != nil {
			t.Fatal(err)
		}
		<-q.drained
		if diff := cmp.Diff([]string{"woken 1", "cold", "woken 2"}, to.got); diff != "" {
			t.Errorf("publisher fails %v: %s", fails, diff)
		}
		if !to.closed {
			t.Error("the publisher was left open")
		}
	}
}
