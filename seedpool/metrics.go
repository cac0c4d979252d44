package seedpool

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// metrics are all metrics of sproutd.
type metrics struct {
	registry  *prometheus.Registry
	starts    *prometheus.CounterVec
	fallbacks *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
	refills   *prometheus.CounterVec
	rebuilds  *prometheus.CounterVec
	automatic *prometheus.CounterVec
	templates *prometheus.CounterVec
	givenUp   *prometheus.CounterVec
}

// startBuckets reach from a thaw to a slow cold start.
var startBuckets = []float64{.0002, .0005, .001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10}

func newMetrics(p *Pool) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		starts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_start_total", Help: "Container starts by the rung that worked and the reason why the rung above it did not.",
		}, []string{"rung", "reason"}),
		fallbacks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_fallback_total", Help: "Rungs that were passed over or failed, by reason.",
		}, []string{"rung", "reason"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "sprout_start_seconds", Help: "Time of each phase of a start, by the rung that worked.", Buckets: startBuckets,
		}, []string{"rung", "phase"}),
		refills: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_refill_total", Help: "Spares that were to be made, by result (made, unwanted, failed) and the reason of a failure.",
		}, []string{"result", "reason"}),
		rebuilds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_rebuild_total", Help: "Seeds that sproutd has baked again by itself, by result (made, failed).",
		}, []string{"result"}),
		automatic: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_automatic_total", Help: "Seeds that sproutd has baked of containers that were started cold, by result (made, failed).",
		}, []string{"result"}),
		templates: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_template_total", Help: "Templates that were to be made, by result (made, failed).",
		}, []string{"result"}),
		givenUp: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "sprout_given_up_total", Help: "What was in memory for later instances and was given up (template, memory: a seed's shared copy), by reason (idle, pressure).",
		}, []string{"what", "reason"}),
	}
	m.registry.MustRegister(m.starts, m.fallbacks, m.seconds, m.refills, m.rebuilds, m.automatic, m.templates, m.givenUp, &poolCollector{pool: p})
	return m
}

// started counts one start. Its words come from a shim: what is not a known rung or reason is counted as "other", so that no client can make series without end.
func (m *metrics) started(start *api.Start) {
	rung := knownRung(start.Rung)
	reason := ""
	if n := len(start.Fallbacks); n > 0 {
		reason = knownReason(start.Fallbacks[n-1].Reason)
	}
	m.starts.WithLabelValues(rung, reason).Inc()
	for _, f := range start.Fallbacks {
		m.fallbacks.WithLabelValues(knownRung(f.Rung), knownReason(f.Reason)).Inc()
	}
	for _, phase := range slices.Concat(start.Ahead, start.Phases) {
		if len(phase.Name) <= 32 {
			m.seconds.WithLabelValues(rung, phase.Name).Observe(time.Duration(phase.Nanoseconds).Seconds())
		}
	}
}

// refilled counts one spare that was to be made. kept: it is in the pool.
func (m *metrics) refilled(kept bool, err error) {
	result, why := "unwanted", ""
	switch {
	case err != nil:
		reason, _ := ReasonOf(err)
		result, why = "failed", knownReason(string(reason))
	case kept:
		result = "made"
	}
	m.refills.WithLabelValues(result, why).Inc()
}

func knownRung(rung string) string {
	switch Rung(rung) {
	case RungThaw, RungFork, RungRestore, RungCold:
		return rung
	}
	return "other"
}

func knownReason(reason string) string {
	if Reason(reason).Hint() != "" {
		return reason
	}
	return "other"
}

// MetricsHandler serves the pool's metrics.
func (p *Pool) MetricsHandler() http.Handler {
	return promhttp.HandlerFor(p.metrics.registry, promhttp.HandlerOpts{})
}

// poolCollector reads the pools when it is asked.
type poolCollector struct {
	pool *Pool

	mu     sync.Mutex
	usages []*api.Usage // +checklocks:mu
	at     time.Time    // +checklocks:mu: when they were measured
}

// usageEvery is how old the figures of memory may be: to measure them, the kernel walks page tables.
const usageEvery = 30 * time.Second

var (
	sparesDesc  = prometheus.NewDesc("sprout_pool_spares", "Spares of a seed by state: want, ready, making, claimed (and not yet bound).", []string{"namespace", "seed", "state"}, nil)
	claimedDesc = prometheus.NewDesc("sprout_pool_claimed_total", "Spares that containers have claimed since sproutd started.", []string{"namespace", "seed"}, nil)
	failedDesc  = prometheus.NewDesc("sprout_pool_failed_total", "Spares that could not be made since sproutd started.", []string{"namespace", "seed"}, nil)
	evictedDesc = prometheus.NewDesc("sprout_pool_evicted_total", "Spares that were given back because their memory was needed, since sproutd started.", []string{"namespace", "seed"}, nil)
	pagesDesc   = prometheus.NewDesc("sprout_pages_bytes", "Seeds in the page store: their memory, and what it takes on disk.", []string{"of"}, nil)
	memoryDesc  = prometheus.NewDesc("sprout_memory_bytes", "Memory of the processes of a seed: logical (all that is mapped), physical (its part of what is shared), private. Renewed every 30 s.", []string{"namespace", "seed", "of"}, nil)
	shortDesc   = prometheus.NewDesc("sprout_pressure", "1 while no spares are made because memory is short, else 0.", nil, nil)
	templDesc   = prometheus.NewDesc("sprout_templates", "Templates that stand in memory: instances are cloned from them.", nil, nil)
	seedsDesc   = prometheus.NewDesc("sprout_seeds", "Seeds by phase.", []string{"phase"}, nil)
)

// Describe implements prometheus.Collector.
func (c *poolCollector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sparesDesc, claimedDesc, failedDesc, evictedDesc, pagesDesc, memoryDesc, shortDesc, templDesc, seedsDesc} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c *poolCollector) Collect(out chan<- prometheus.Metric) {
	c.pool.mu.Lock()
	pools := make([]*api.PoolInfo, 0, len(c.pool.seeds))
	claimed := make(map[string]uint32)
	phases := map[string]int{SeedReady: 0, SeedBad: 0, SeedStale: 0}
	templates := 0
	for _, s := range c.pool.seeds {
		if s.fork.stands {
			templates++
		}
		pools = append(pools, c.pool.infoLocked(s))
		claimed[s.id] = 0
		phases[s.meta.Info.Phase]++
	}
	for _, i := range c.pool.instances {
		if _, known := claimed[i.seed]; known && i.phase() == phaseClaimed {
			claimed[i.seed]++
		}
	}
	c.pool.mu.Unlock()
	for _, p := range pools {
		for state, n := range map[string]uint32{"want": p.Want, "ready": p.Ready, "making": p.Making, "claimed": claimed[p.Seed]} {
			out <- prometheus.MustNewConstMetric(sparesDesc, prometheus.GaugeValue, float64(n), p.Namespace, p.Name, state)
		}
		out <- prometheus.MustNewConstMetric(claimedDesc, prometheus.CounterValue, float64(p.ClaimedTotal), p.Namespace, p.Name)
		out <- prometheus.MustNewConstMetric(failedDesc, prometheus.CounterValue, float64(p.FailedTotal), p.Namespace, p.Name)
		out <- prometheus.MustNewConstMetric(evictedDesc, prometheus.CounterValue, float64(p.EvictedTotal), p.Namespace, p.Name)
	}
	out <- prometheus.MustNewConstMetric(templDesc, prometheus.GaugeValue, float64(templates))
	for phase, n := range phases {
		out <- prometheus.MustNewConstMetric(seedsDesc, prometheus.GaugeValue, float64(n), phase)
	}
	short := 0.0
	if wait, _ := c.pool.memory.wait(time.Now()); wait > 0 {
		short = 1
	}
	out <- prometheus.MustNewConstMetric(shortDesc, prometheus.GaugeValue, short)
	c.collectPages(out)
	c.collectMemory(out)
}

// collectMemory adds up what a seed's containers, spares, template and keeper have. Containers that were started cold are of no seed.
func (c *poolCollector) collectMemory(out chan<- prometheus.Metric) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.at) >= usageEvery {
		usages, err := c.pool.usage(c.pool.life, "")
		if err != nil {
			out <- prometheus.NewInvalidMetric(memoryDesc, err)
			return
		}
		c.usages, c.at = usages, time.Now()
	}
	sums := make(map[[3]string]uint64)
	for _, u := range c.usages {
		for of, bytes := range map[string]uint64{"logical": u.Logical, "physical": u.Physical, "private": u.Private} {
			sums[[3]string{u.Namespace, u.Seed, of}] += bytes
		}
	}
	for labels, bytes := range sums {
		out <- prometheus.MustNewConstMetric(memoryDesc, prometheus.GaugeValue, float64(bytes), labels[:]...)
	}
}

// collectPages says nothing when there is no page store.
func (c *poolCollector) collectPages(out chan<- prometheus.Metric) {
	if c.pool.pages == nil {
		return
	}
	memory, disk, err := c.pool.pages.Total()
	if err != nil {
		out <- prometheus.NewInvalidMetric(pagesDesc, err)
		return
	}
	out <- prometheus.MustNewConstMetric(pagesDesc, prometheus.GaugeValue, float64(memory), "memory")
	out <- prometheus.MustNewConstMetric(pagesDesc, prometheus.GaugeValue, float64(disk), "disk")
}
