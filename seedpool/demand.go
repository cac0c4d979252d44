package seedpool

import (
	"math"
	"slices"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// demandWindow is how far apart two starts may be to count as one burst: about what it takes to fill a pool again.
const demandWindow = 10 * time.Second

// spareBounds say how many spares a seed is to have: at least min, and up to max as demand says. Pools of a higher priority are filled first, and give back last.
type spareBounds struct {
	min, max uint32
	priority int32
}

func boundsOf(row *api.PoolRow) spareBounds {
	return spareBounds{row.Want, max(row.Want, row.Max), row.Priority}
}

func (b spareBounds) row() *api.PoolRow {
	return &api.PoolRow{Want: b.min, Max: b.max, Priority: b.priority}
}

// fading is a level that halves each half-life. The zero value is none.
type fading struct {
	level float64
	at    time.Time
}

func (f fading) now(now time.Time, halfLife time.Duration) float64 {
	return f.level * math.Exp2(-float64(now.Sub(f.at))/float64(halfLife))
}

// raise sees to it that it is at least so high.
func (f *fading) raise(to float64, now time.Time, halfLife time.Duration) {
	f.level, f.at = max(f.now(now, halfLife), to), now
}

// until is how long until it is no higher than that.
func (f fading) until(level float64, now time.Time, halfLife time.Duration) time.Duration {
	return max(0, time.Duration(math.Log2(f.now(now, halfLife)/level)*float64(halfLife)))
}

// habitLives is how many half-lives it takes until half of what is expected again is not any more.
const habitLives = 12

// demand is how many spares would have served the largest burst of starts of late. A burst raises it at once; in quiet it halves each half-life. What a burst has in common with
// the one before it is expected again, and kept for much longer: bursts may come every half an hour. The zero value is none.
type demand struct {
	// burst are the starts of the last window, the last max ones.
	burst []time.Time
	// needed is what the bursts of late did, expected what each of two in a row did.
	needed, expected fading
	// last is the burst that is under way, or was last, before the one before it.
	last, before fading
}

// note counts one start.
func (d *demand) note(now time.Time, halfLife time.Duration) {
	d.burst = slices.DeleteFunc(d.burst, func(t time.Time) bool { return now.Sub(t) >= demandWindow })
	if len(d.burst) == 0 {
		d.before, d.last = d.last, fading{}
	}
	if len(d.burst) < math.MaxInt16 {
		d.burst = append(d.burst, now)
	}
	size := float64(len(d.burst))
	d.needed.raise(size, now, halfLife)
	d.last.raise(size, now, habitLives*halfLife)
	d.expected.raise(min(size, d.before.now(now, habitLives*halfLife)), now, habitLives*halfLife)
}

// spares is how many to have within the bounds, and how long until it is fewer; 0: it will not be.
func (d *demand) spares(b spareBounds, now time.Time, halfLife time.Duration) (want int, fewer time.Duration) {
	// Above max it falls unseen.
	want = min(int(math.Ceil(max(d.needed.now(now, halfLife), d.expected.now(now, habitLives*halfLife)))), int(b.max))
	if want <= int(b.min) {
		return int(b.min), 0
	}
	least := float64(want - 1)
	if want == 1 {
		least = 0.5 // It would never be none: less than half a spare is none.
	}
	fewer = max(d.needed.until(least, now, halfLife), d.expected.until(least, now, habitLives*halfLife))
	if want == 1 && fewer == 0 {
		return 0, 0
	}
	return want, max(fewer, time.Millisecond)
}
