package seedpool

import (
	"context"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// holdMemory has no spare made from now on.
func holdMemory(p *Pool) {
	p.memory.mu.Lock()
	defer p.memory.mu.Unlock()
	p.memory.until = time.Now().Add(time.Hour)
}

func TestAPoolOfHigherPriorityIsFilledFirstAndGivesBackLast(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	sv := &service{pool: p}
	seeds := map[string]*seed{}
	for name, spares := range map[string]uint32{"low": 1, "high": 2, "empty": 0} {
		seeds[name] = b.seed("ns", name, keyOf(t, spec()))
		request := &api.SetPoolRequest{Namespace: "ns", Seed: name, Spares: spares}
		if name == "high" {
			request.Priority = proto.Int32(5)
		}
		if _, err := sv.SetPool(t.Context(), request); err != nil {
			t.Fatal(err)
		}
		b.ready(name, spares)
	}
	holdMemory(p) // what goes is not made again
	var evicted []string
	for range 3 {
		next, stop := p.events.follow()
		p.evict(t.Context(), "the test wants it", memoryState{})
		stop()
		for len(next) > 0 {
			if event := <-next; event.Kind == EventEvicting {
				evicted = append(evicted, event.Seed)
			}
		}
	}
	if want := []string{"low", "high", "high"}; !slices.Equal(evicted, want) {
		t.Errorf("gave back %v, want %v", evicted, want)
	}

	// Drained and asked for again without a word about it, the pool keeps its priority, also over a restart.
	for _, spares := range []uint32{0, 4} {
		if pool, err := sv.SetPool(t.Context(), &api.SetPoolRequest{Namespace: "ns", Seed: "high", Spares: spares}); err != nil || pool.Priority != 5 {
			t.Errorf("%v, %v", pool, err)
		}
	}
	b.close()
	p = b.prepare()
	holdMemory(p)
	if err := p.open(context.Background()); err != nil {
		t.Fatal(err)
	}
	b.pool = p
	<-p.Recovered()
	high, err := p.find("ns", "high")
	if err != nil || high.bounds != (spareBounds{min: 4, max: 4, priority: 5}) {
		t.Fatalf("%v, %v", high.bounds, err)
	}
}

func TestOfSeedsThatLackSparesPriorityComesBeforeEmptiness(t *testing.T) {
	p := newPool(Default(), nil)
	p.config.RefillParallel = 8
	for id, b := range map[string]spareBounds{"low": {min: 3, max: 3}, "high": {min: 1, max: 1, priority: 2}, "negative": {min: 5, max: 5, priority: -1}} {
		p.seeds[id] = &seed{id: id, bounds: b, meta: &api.SeedMeta{Info: &api.SeedInfo{Phase: SeedReady}}}
	}
	p.seeds["low"].making = 1
	var order []string
	for range 4 {
		s, _ := p.nextToFill(time.Unix(90, 0))
		if s == nil {
			t.Fatalf("none after %v", order)
		}
		order = append(order, s.id)
	}
	if want := []string{"high", "low", "low", "negative"}; !slices.Equal(order, want) {
		t.Errorf("%v, want %v", order, want)
	}
}
