package seedpool

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/prometheus/procfs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// lookAtMemory is how often the machine's memory is looked at while there is something to give back.
	lookAtMemory = 500 * time.Millisecond
	// stalledTooLong is the part of the time for which some task may wait for memory.
	stalledTooLong = 0.1
	// nearLimit is the part of a limit from which on spares are given back.
	nearLimit = 0.9
	// restAfterPressure is how long nothing is made after memory was short: what was given back would be gone again.
	restAfterPressure = 10 * time.Second
)

// Why the machine's memory is short, whatever spares may take.
const (
	shortOfMemory = "too little memory is available"
	waitForMemory = "tasks wait for memory"
)

// memoryState is what is known of the machine's memory, in bytes.
type memoryState struct {
	available uint64
	// stall is for how long tasks have waited for memory since the boot.
	stall time.Duration
	// spares is what is charged to the spares that are ready. charged and limit are what their common cgroup has and may have, which counts what was charged to spares that
	// are containers now, too; limit 0: there is none.
	spares, charged, limit uint64
}

// memoryGuard says from one look at the memory to the next whether it is short. The zero value has not looked yet.
type memoryGuard struct {
	mu    sync.Mutex
	last  memoryState // +checklocks:mu
	at    time.Time   // +checklocks:mu: of the last look; zero: none
	until time.Time   // +checklocks:mu: until when nothing is made
	short string      // +checklocks:mu: why
}

// look judges the memory as it is now. The reason why it is short is for people; empty: it is not.
func (g *memoryGuard) look(now time.Time, m memoryState, policy Policy) (short string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	stalled := 0.0
	if since := now.Sub(g.at); !g.at.IsZero() && since > 0 {
		stalled = float64(m.stall-g.last.stall) / float64(since)
	}
	g.last, g.at = m, now
	near := func(used, limit uint64) bool { return limit != 0 && float64(used) > float64(limit)*nearLimit }
	switch {
	case m.available < uint64(policy.KeepFree):
		short = shortOfMemory
	case stalled > stalledTooLong:
		short = waitForMemory
	case near(m.spares, uint64(policy.Memory)):
		short = "spares take what they may"
	case near(m.charged, m.limit):
		short = "the limit of the spares' cgroup is near"
	default:
		return ""
	}
	g.until, g.short = now.Add(restAfterPressure), short
	return short
}

// wait is how long nothing must be made, and why; 0: there is memory for it.
func (g *memoryGuard) wait(now time.Time) (time.Duration, string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return max(0, g.until.Sub(now)), g.short
}

// watchMemory gives memory back while it is short, until ctx ends: spares first, then templates, then copies of seeds that no instance shares. Containers that run are never
// touched.
func (p *Pool) watchMemory(ctx context.Context) {
	again := time.NewTicker(lookAtMemory)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-again.C:
			if !p.holdsAny(now) {
				continue
			}
			m, err := p.memoryState()
			if err != nil {
				log.G(ctx).WithError(err).Warn("look at memory")
				continue
			}
			if short := p.memory.look(now, m, p.config.Pool); short != "" {
				p.evict(ctx, short, m)
			}
		}
	}
}

// holdsAny says whether there is something in memory for later starts, or will be.
func (p *Pool) holdsAny(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		if len(s.ready) > 0 || s.fork.stands || s.hot || p.wantedLocked(s, now) > 0 {
			return true
		}
	}
	return false
}

func (p *Pool) memoryState() (m memoryState, err error) {
	proc, err := procfs.NewDefaultFS()
	if err != nil {
		return m, err
	}
	info, err := proc.Meminfo()
	if err != nil {
		return m, err
	}
	if info.MemAvailableBytes == nil {
		return m, errors.New("read /proc/meminfo: no MemAvailable")
	}
	m.available = *info.MemAvailableBytes
	// A kernel without PSI, or with it switched off, has no such file, or one that cannot be read.
	if stalls, err := proc.PSIStatsForResource("memory"); err == nil && stalls.Some != nil {
		m.stall = time.Duration(stalls.Some.Total) * time.Microsecond
	}
	for _, c := range p.readyCgroups() {
		charged, _, err := c.Memory()
		if err != nil {
			return m, err
		}
		m.spares += charged
	}
	m.charged, m.limit, err = p.spares().Memory()
	return m, err
}

// readyCgroups are those of the spares that are ready.
func (p *Pool) readyCgroups() (list []linux.Cgroup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		for _, i := range s.ready {
			list = append(list, linux.Cgroup{Path: i.row.Instance.Cgroup})
		}
	}
	return list
}

// spares is the cgroup of all spares.
func (p *Pool) spares() linux.Cgroup {
	return linux.Cgroup{Path: path.Join(p.config.CgroupRoot, "spares")}
}

// evict drops one spare in four, at least one, of the seed that has most of them, of those with the lowest priority.
func (p *Pool) evict(ctx context.Context, short string, m memoryState) {
	p.mu.Lock()
	var most *seed
	for _, s := range p.seeds {
		if len(s.ready) == 0 {
			continue
		}
		if most == nil || s.bounds.priority < most.bounds.priority || s.bounds.priority == most.bounds.priority && len(s.ready) > len(most.ready) {
			most = s
		}
	}
	if most == nil {
		p.mu.Unlock()
		if short == shortOfMemory || short == waitForMemory {
			p.giveUpOne(ctx, short)
		}
		return
	}
	n := (len(most.ready) + 3) / 4
	extra := append([]*instance(nil), most.ready[:n]...)
	most.evicted += uint64(n)
	p.events.tell(&api.Event{Kind: EventEvicting, Namespace: most.namespace, Seed: most.meta.Info.Name, Detail: fmt.Sprintf("%d spares: %s", n, short)})
	p.mu.Unlock()
	log.G(ctx).WithFields(log.Fields{
		"seed": most.id, "spares": n, "reason": short, "available": Size(m.available).String(), "taken": Size(m.spares).String(), "charged": Size(m.charged).String(), "limit": Size(m.limit).String(),
	}).Warn("give spares back")
	p.dropLater(extra)
}
