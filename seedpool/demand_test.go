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
	now = now.Add(10 * testHalfLife)
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

// traffic is a trace of starts: how many at each second.
type traffic func(second int) int

// served replays a trace against pools: how many starts found a spare, and how many spares were held on average. One spare is made at a time, and takes a second.
func served(trace traffic, seconds int, size func(*demand, time.Time) int) (hits, misses int, held float64) {
	var d demand
	start := time.Unix(0, 0)
	have, making := size(&d, start), 0
	for second := range seconds {
		now := start.Add(time.Duration(second) * time.Second)
		have, making = have+making, 0
		for range trace(second) {
			d.note(now, testHalfLife)
			if have > 0 {
				have--
				hits++
			} else {
				misses++
			}
		}
		want := size(&d, now)
		have = min(have, want)
		making = min(want-have, 1)
		held += float64(have) / float64(seconds)
	}
	return hits, misses, held
}

// TestDemandServesMoreThanAFixedPoolOfTheSameSize compares pools over traces: one that follows demand, and one that always holds as many spares as that held on average.
func TestDemandServesMoreThanAFixedPoolOfTheSameSize(t *testing.T) {
	for name, trace := range map[string]traffic{
		"one busy hour in four": func(s int) int {
			if s < 3600 && s%120 == 0 {
				return 10
			}
			return 0
		},
		"day and night": func(s int) int {
			if s/3600%2 == 0 && s%60 == 0 {
				return 6
			}
			return 0
		},
		"flash crowd": func(s int) int {
			switch {
			case s > 5000 && s < 5600 && s%20 == 0:
				return 15
			case s%60 == 0:
				return 1
			}
			return 0
		},
	} {
		follow := func(d *demand, now time.Time) int {
			n, _ := d.spares(spareBounds{min: 1, max: 40}, now, testHalfLife)
			return n
		}
		hits, misses, held := served(trace, 4*3600, follow)
		fixed := func(*demand, time.Time) int { return int(held + 1) }
		fixedHits, fixedMisses, fixedHeld := served(trace, 4*3600, fixed)
		t.Logf("%s: %d of %d starts found one of %.1f spares; of %.1f at all times %d of %d", name, hits, hits+misses, held, fixedHeld, fixedHits, fixedHits+fixedMisses)
		if hits <= fixedHits {
			t.Errorf("%s: following demand served %d, a pool of the same size %d", name, hits, fixedHits)
		}
	}
}
