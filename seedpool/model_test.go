package seedpool

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// trace says how many starts there are in each second.
type trace struct {
	name    string
	seconds int
	starts  func(second int, random *rand.Rand) int
}

// modelTraces are kinds of traffic that pools are there for.
var modelTraces = []trace{
	{"bursts: 20 starts at once every 20 minutes, in 4 of 12 hours", 12 * 3600, func(s int, _ *rand.Rand) int {
		if s >= 2*3600 && s < 6*3600 && s%1200 == 0 {
			return 20
		}
		return 0
	}},
	{"a day: from none at night to 20 starts a minute at noon", 24 * 3600, func(s int, random *rand.Rand) int {
		return poisson(random, max(0, -math.Cos(2*math.Pi*float64(s)/(24*3600)))*20/60)
	}},
	{"a flash crowd: one start a minute, then 3 a second for 2 minutes", 6 * 3600, func(s int, random *rand.Rand) int {
		if s >= 3*3600 && s < 3*3600+120 {
			return poisson(random, 3)
		}
		return poisson(random, 1./60)
	}},
}

func poisson(random *rand.Rand, mean float64) (n int) {
	for left := random.ExpFloat64(); left < mean; left += random.ExpFloat64() {
		n++
	}
	return n
}

// model is a pool of one seed under a simulated clock. What decides is the real pool's; what it decides on is done by the model: a spare takes makeTime.
type model struct {
	pool *Pool
	seed *seed
	// done are when the spares that are being made will be.
	done []time.Time
}

const modelMakeTime = time.Second

func newModel(b spareBounds) *model {
	p := testPool(Default(), nil)
	s := p.newSeed(&api.SeedMeta{Info: &api.SeedInfo{Id: "s", Namespace: "ns", Name: "shop", Phase: SeedReady}})
	s.bounds, p.seeds[s.id] = b, s
	return &model{pool: p, seed: s}
}

// tick moves the clock: what is done comes into the pool, what is too many goes, and what is missing is begun.
func (m *model) tick(now time.Time) {
	for len(m.done) > 0 && !m.done[0].After(now) {
		m.done = m.done[1:]
		m.seed.making--
		if m.pool.roomLocked(m.seed, now) {
			m.seed.ready = append(m.seed.ready, &instance{id: newID()})
		}
	}
	m.seed.ready = m.seed.ready[len(m.pool.surplus(now)):]
	for s, _ := m.pool.nextToFill(now); s != nil; s, _ = m.pool.nextToFill(now) {
		m.done = append(m.done, now.Add(modelMakeTime))
	}
}

// start is one start; hit: it finds a spare.
func (m *model) start(now time.Time) (hit bool) {
	m.pool.starts.disturb(now)
	m.seed.demand.note(now, time.Duration(m.pool.config.Pool.HalfLife))
	if len(m.seed.ready) == 0 {
		return false
	}
	m.seed.ready = m.seed.ready[1:]
	return true
}

// outcome is what a pool was worth over a trace: the part of the starts that found a spare, and how many spares were held on average. Of each minute: the spares at its end, and its starts.
type outcome struct {
	hits, held     float64
	spares, starts []float64
}

func play(t trace, b spareBounds) (o outcome) {
	m, random := newModel(b), rand.New(rand.NewPCG(1, 2))
	begin := time.Now()
	starts, hits, minute := 0, 0, 0
	for second := range t.seconds {
		n, now := t.starts(second, random), begin.Add(time.Duration(second)*time.Second)
		m.tick(now)
		for range n {
			starts++
			if m.start(now) {
				hits++
			}
		}
		o.held += float64(len(m.seed.ready)) / float64(t.seconds)
		if minute += n; second%60 == 59 {
			o.spares, o.starts = append(o.spares, float64(len(m.seed.ready))), append(o.starts, float64(minute))
			minute = 0
		}
	}
	o.hits = float64(hits) / float64(starts)
	return o
}

// TestAPoolThatFollowsDemandIsWorthMoreThanOneOfAnySizeThatHoldsAsMuch plays traces against the pool's own policy, and against pools of fixed sizes: one that serves as many starts holds
// more memory, and one that holds as much serves fewer. The picture is _out/bench/model.svg.
func TestAPoolThatFollowsDemandIsWorthMoreThanOneOfAnySizeThatHoldsAsMuch(t *testing.T) {
	var picture modelPicture
	for _, trace := range modelTraces {
		follows := play(trace, spareBounds{min: 1, max: 40})
		var fixed []outcome
		for _, n := range []uint32{1, 2, 3, 5, 8, 12, 20, 30, 40} {
			fixed = append(fixed, play(trace, spareBounds{min: n, max: n}))
		}
		t.Logf("%s: following, %.1f %% of the starts are thawed, of %.1f spares", trace.name, 100*follows.hits, follows.held)
		for _, f := range fixed {
			t.Logf("  fixed, %.1f %% of %.1f", 100*f.hits, f.held)
			if f.held <= follows.held && f.hits >= follows.hits {
				t.Errorf("%s: a fixed pool is no larger and serves as many", trace.name)
			}
		}
		picture.add(trace.name, follows, fixed)
	}
	if err := picture.write(); err != nil {
		t.Error(err)
	}
}
