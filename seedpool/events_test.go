package seedpool

import (
	"fmt"
	"slices"
	"testing"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestEventsTellTheLifeOfASpare(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	next, stop := p.events.follow()
	defer stop()
	b.fill(s, 1)
	got, err := claimByKey(t, p, b.container("ns", "c1"), spec())
	if err != nil {
		t.Fatal(err)
	}
	if err := p.bound(p.instance(got.Instance.Id)); err != nil {
		t.Error(err)
	}
	p.tellStart(&api.Start{Namespace: "ns", Id: "c1", Seed: s.id, Rung: string(RungThaw)})
	var seen []string
	for len(seen) < 5 {
		event := <-next
		if event.Instance != "" && event.Instance != got.Instance.Id {
			continue // the spare that takes its place
		}
		if event.Namespace != "ns" || event.Seed != "shop" || event.AtUnixNanoseconds == 0 {
			t.Errorf("event %v", event)
		}
		seen = append(seen, fmt.Sprint(event.Kind, " ", event.Container))
	}
	if want := []string{"template-made ", "spare-ready ", "claimed c1", "bound c1", "started c1"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
}

func TestAFollowerThatDoesNotKeepUpIsToldHowManyItHasLost(t *testing.T) {
	var e events
	e.tell(&api.Event{Kind: "nobody follows"})
	next, stop := e.follow()
	for range eventsKept + 3 {
		e.tell(&api.Event{Kind: EventStarted})
	}
	for range eventsKept {
		if event := <-next; event.Lost != 0 {
			t.Fatalf("%v", event)
		}
	}
	e.tell(&api.Event{Kind: EventStarted})
	if event := <-next; event.Lost != 3 {
		t.Errorf("%v, want 3 lost", event)
	}
	stop()
	e.tell(&api.Event{Kind: "after the end"})
	select {
	case event := <-next:
		t.Errorf("%v after the end", event)
	default:
	}
}
