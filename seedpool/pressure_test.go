package seedpool

import (
	"strings"
	"testing"
	"time"
)

func TestMemoryIsShortForAReason(t *testing.T) {
	policy := Policy{KeepFree: 100, Memory: 1000}
	for name, c := range map[string]struct {
		before, now memoryState
		short       string
	}{
		"plenty":                 {memoryState{available: 200}, memoryState{available: 200, spares: 800}, ""},
		"little available":       {memoryState{available: 200}, memoryState{available: 99}, "available"},
		"much waiting":           {memoryState{available: 200}, memoryState{available: 200, stall: 200 * time.Millisecond}, "wait"},
		"little waiting":         {memoryState{available: 200, stall: time.Hour}, memoryState{available: 200, stall: time.Hour + 50*time.Millisecond}, ""},
		"near our bound":         {memoryState{available: 200}, memoryState{available: 200, spares: 950}, "may"},
		"near the cgroup's":      {memoryState{available: 200}, memoryState{available: 200, charged: 190, limit: 200}, "limit"},
		"containers have more":   {memoryState{available: 200}, memoryState{available: 200, spares: 100, charged: 5000}, ""},
		"far from a large limit": {memoryState{available: 200}, memoryState{available: 200, charged: 190, limit: 5000}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var g memoryGuard
			now := time.Unix(1000, 0)
			if short := g.look(now, c.before, policy); short != "" {
				t.Errorf("short at first: %s", short)
			}
			now = now.Add(time.Second)
			short := g.look(now, c.now, policy)
			if (short == "") != (c.short == "") || !strings.Contains(short, c.short) {
				t.Errorf("%q, want %q", short, c.short)
			}
			want := time.Duration(0)
			if c.short != "" {
				want = restAfterPressure
			}
			if got, why := g.wait(now); got != want || why != short {
				t.Errorf("nothing is made for %s because %q, want %s", got, why, want)
			}
			if got, _ := g.wait(now.Add(restAfterPressure)); got != 0 {
				t.Errorf("later nothing is made for %s", got)
			}
		})
	}
	var g memoryGuard
	if short := g.look(time.Unix(1, 0), memoryState{spares: 1 << 50, stall: time.Hour}, Policy{}); short != "" {
		t.Errorf("no bounds at all: %s", short)
	}
}

func TestSparesAreEvictedFromTheFullestPoolAndComeBack(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	many, few := b.seed("ns", "many", keyOf(t, spec())), b.seed("ns", "few", keyOf(t, spec()))
	b.fill(many, 3)
	b.fill(few, 1)
	now := time.Now()
	short := p.memory.look(now, memoryState{}, Policy{KeepFree: 1})
	p.evict(t.Context(), short, memoryState{})
	p.mu.Lock()
	if len(many.ready) != 2 || len(few.ready) != 1 || many.evicted != 1 || few.evicted != 0 {
		t.Errorf("ready %d and %d, evicted %d and %d", len(many.ready), len(few.ready), many.evicted, few.evicted)
	}
	p.mu.Unlock()
	if s, pause := p.nextToFill(now); s != nil || pause <= 0 {
		t.Errorf("%v is filled while memory is short, or in %s", s, pause)
	}
	p.memory.mu.Lock()
	p.memory.until = time.Time{}
	p.memory.mu.Unlock()
	p.stir()
	b.ready("many", 3)
}
