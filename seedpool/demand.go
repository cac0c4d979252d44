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

// demand is how many spares would have served the largest burst of starts of late. A burst raises it at once; in quiet it halves each half-life. The zero value is none.
type demand struct {
	// burst are the starts of the last window, the last max ones.
	burst []time.Time
	// level at the time at.
	level float64
	at    time.Time
}

// note counts one start.
func (d *demand) note(now time.Time, halfLife time.Duration) {
	d.burst = slices.DeleteFunc(d.burst, func(t time.Time) bool { return now.Sub(t) >= demandWindow })
	if len(d.burst) < math.MaxInt16 {
		d.burst = append(d.burst, now)
	}
	d.level, d.at = max(d.now(now, halfLife), float64(len(d.burst))), now
}

// now is the level that is left.
func (d *demand) now(now time.Time, halfLife time.Duration) float64 {
	return d.level * math.Exp2(-float64(now.Sub(d.at))/float64(halfLife))
}

// spares is how many to have within the bounds, and how long until it is fewer; 0: it will not be.
func (d *demand) spares(b spareBounds, now time.Time, halfLife time.Duration) (want int, fewer time.Duration) {
	level := d.now(now, halfLife)
	// Above max it falls unseen.
	want = min(int(math.Ceil(level)), int(b.max))
	if want <= int(b.min) {
		return int(b.min), 0
	}
	fewer = time.Duration(math.Log2(level/float64(want-1)) * float64(halfLife))
	if want == 1 {
		// It would never be none: less than half a spare is none.
		fewer = time.Duration(math.Log2(level*2) * float64(halfLife))
		if fewer <= 0 {
			return 0, 0
		}
	}
	return want, max(fewer, time.Millisecond)
}
