package seedpool

import (
	"testing"
	"time"
)

const testHalfLife = 5 * time.Minute

func TestABurstRaisesWhatIsWantedAndQuietLowersIt(t *testing.T) {
	var d demand
	bounds := spareBounds{min: 2, max: 12}
	now := time.Unix(1000, 0)
	want := func(what string, n int) {
		t.Helper()
		if got, _ := d.spares(bounds, now, testHalfLife); got != n {
			t.Errorf("%s: %d spares, want %d", what, got, n)
		}
	}
	want("nothing was ever started", 2)
	for range 8 {
		now = now.Add(100 * time.Millisecond)
		d.note(now, testHalfLife)
	}
	want("a burst of eight", 8)
	for range 20 {
		d.note(now, testHalfLife)
	}
	want("a burst beyond what may be", 12)
	now = now.Add(2 * testHalfLife)
	want("two half-lives after it", 7)
	for range 3 {
		now = now.Add(time.Minute)
		d.note(now, testHalfLife)
	}
	want("single starts keep nothing up", 5)
	now = now.Add(40 * testHalfLife)
	want("long after", 2)
	bounds = spareBounds{min: 0, max: 12}
	want("long after, where none need be", 0)
	d.note(now, testHalfLife)
	want("one start", 1)
	bounds = spareBounds{min: 3, max: 3}
	want("no room", 3)
}

// TestTheTimeUntilFewerIsRight follows the level down: just before the time that is said it is what it was, and after it is less.
func TestTheTimeUntilFewerIsRight(t *testing.T) {
	var d demand
	bounds := spareBounds{min: 0, max: 6}
	now := time.Unix(1000, 0)
	for range 9 {
		d.note(now, testHalfLife)
	}
	steps := 0
	for want, fewer := d.spares(bounds, now, testHalfLife); fewer > 0; steps++ {
		if before, _ := d.spares(bounds, now.Add(fewer-time.Second), testHalfLife); before != want {
			t.Errorf("%d spares a second before %s", before, fewer)
		}
		now = now.Add(fewer + time.Second)
		after, next := d.spares(bounds, now, testHalfLife)
		if after != want-1 {
			t.Errorf("%d spares after %s, want %d", after, fewer, want-1)
		}
		want, fewer = after, next
	}
	if steps != 6 {
		t.Errorf("%d steps down from 6", steps)
	}
}

func TestWhatBurstsHaveInCommonIsExpectedAgain(t *testing.T) {
	var d demand
	bounds := spareBounds{min: 0, max: 20}
	now := time.Unix(1000, 0)
	burst := func(n int) {
		for range n {
			d.note(now, testHalfLife)
		}
	}
	want := func(what string, n int) {
		t.Helper()
		if got, _ := d.spares(bounds, now, testHalfLife); got != n {
			t.Errorf("%s: %d spares, want %d", what, got, n)
		}
	}
	burst(16)
	now = now.Add(4 * testHalfLife)
	want("one burst may be the only one", 1)
	burst(8)
	now = now.Add(6 * testHalfLife)
	want("two had eight in common", 6)
	burst(3)
	now = now.Add(6 * testHalfLife)
	want("a small one after them changes nothing", 4)
	now = now.Add(60 * testHalfLife)
	want("long after", 0)
}
