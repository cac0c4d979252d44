package integration

import (
	"fmt"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// soakTime is how long the clones of each app are asked on and on, by `make soak`; else zero.
func soakTime(t *testing.T) time.Duration {
	t.Helper()
	value := os.Getenv("SPROUT_SOAK")
	if value == "" {
		return 0
	}
	d, err := time.ParseDuration(value)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// soak has clones of an app alive at once and asks them all at the same time: every request must be answered, by the processes that were baked.
func soak(t *testing.T, s *stack.Stack, app app) {
	t.Helper()
	lasts := soakTime(t)
	clones, requests := app.clones, app.requests
	if lasts > 0 {
		clones, requests = 10, 1000
	}
	workers := make(map[int][]int)
	for n := range clones {
		first, _ := app.run(t, s, fmt.Sprintf("%s-soak-%d", app.name, n), "fork")
		workers[first] = numbers(t, first)
	}
	began := time.Now()
	var total int
	for again := true; again; again = time.Since(began) < lasts {
		var wg sync.WaitGroup
		for first := range workers {
			wg.Go(func() {
				if err := app.ask(first, requests); err != nil {
					t.Errorf("clone %d: %v", first, err)
				}
			})
		}
		wg.Wait()
		total += clones * requests
	}
	t.Logf("%d clones of %v, %d requests in %v", clones, workers, total, time.Since(began).Round(time.Millisecond))
	for first, had := range workers {
		if now := numbers(t, first); !slices.Equal(now, had) {
			t.Errorf("clone %d has processes %v, had %v", first, now, had)
		}
	}
	for n := range clones {
		remove(t, s, fmt.Sprintf("%s-soak-%d", app.name, n))
	}
}

// numbers are those that a container's first process and its children have in their own pid namespace.
func numbers(t *testing.T, first int) (list []int) {
	t.Helper()
	children, err := linux.Children(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range append(children, first) {
		own, err := linux.InnermostPID(pid)
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, own)
	}
	slices.Sort(list)
	return list
}
