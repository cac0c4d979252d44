package seedpool

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// TestSparesThatAreTooOldAreReplacedOneByOne follows a pool over two days by a clock of its own.
func TestSparesThatAreTooOldAreReplacedOneByOne(t *testing.T) {
	p := newPool(Default(), nil)
	p.config.RefillParallel = 4
	s := &seed{id: "shop", bounds: spareBounds{min: 3, max: 3}, meta: &api.SeedMeta{Info: &api.SeedInfo{Phase: SeedReady}}}
	p.seeds[s.id] = s
	for range 3 {
		s.ready = append(s.ready, &instance{id: newID()})
	}
	now := madeAt(s.ready[0].id)
	if time.Since(now).Abs() > time.Minute {
		t.Fatalf("an id says it was made at %s", now)
	}
	if next, pause := p.nextToFill(now.Add(23 * time.Hour)); next != nil || pause != time.Hour {
		t.Errorf("too early: %v, again in %s", next, pause)
	}
	now = now.Add(25 * time.Hour)
	p.memory.until = now.Add(time.Second)
	if next, _ := p.nextToFill(now); next != nil {
		t.Error("one is made while memory is short")
	}
	p.memory.until = time.Time{}
	if next, _ := p.nextToFill(now); next != s {
		t.Fatal("none is replaced")
	}
	if next, _ := p.nextToFill(now); next != nil {
		t.Error("two are replaced at once")
	}
	if extra := p.surplus(now); len(extra) > 0 {
		t.Error("an old one goes before the new one is there")
	}
	p.mu.Lock()
	oldest := s.ready[0]
	s.making, s.ready = 0, append(s.ready, &instance{id: newID()})
	p.mu.Unlock()
	if extra := p.surplus(now); !slices.Equal(extra, []*instance{oldest}) {
		t.Errorf("%v goes, not the oldest", extra)
	}
	p.config.Pool.MaxAge = 0
	s.ready = s.ready[:3]
	if next, pause := p.nextToFill(now); next != nil || pause != 0 {
		t.Error("without a limit one is replaced")
	}
}

func TestAPoolIsNeverShortWhileItsSparesAreReplaced(t *testing.T) {
	b := newBed(t)
	b.config.Pool.MaxAge = Duration(time.Second)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	ids := func() (list []string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, i := range s.ready {
			list = append(list, i.id)
		}
		return list
	}
	first := ids()
	b.eventually("both to be replaced", func() error {
		now := ids()
		if len(now) < 2 {
			t.Errorf("only %v are ready", now)
		}
		if slices.ContainsFunc(now, func(id string) bool { return slices.Contains(first, id) }) {
			return fmt.Errorf("%v are ready, first %v", now, first)
		}
		return nil
	})
}

func TestASpareThatIsNotFrozenIsNoSpare(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	if err := os.WriteFile(b.config.Paths().KeeperSocket(s.id)+".loose", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := p.setPool(t.Context(), s, spareBounds{min: 2, max: 2}); err != nil {
		t.Fatal(err)
	}
	b.eventually("the failure to be told", func() error {
		p.mu.Lock()
		defer p.mu.Unlock()
		if len(s.ready) != 1 || s.failed == 0 || !strings.Contains(s.lastError, "frozen") {
			return fmt.Errorf("%d ready, %d failed: %q", len(s.ready), s.failed, s.lastError)
		}
		return nil
	})
	b.eventually("it to be removed", func() error {
		if left := b.leftovers(); len(left) > 0 {
			return errors.New(strings.Join(left, ", "))
		}
		return nil
	})
}
