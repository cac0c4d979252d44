package linux

import (
	"os"
	"strconv"
	"sync"
	"time"
)

// moveEvery is how often a MovePrimer repeats itself: more often than RCU's grace periods end.
const moveEvery = 2 * time.Millisecond

// MovePrimer keeps the kernel ready to move processes between cgroups. The first move after a quiet time waits for an RCU grace period, 5 to 10 ms, since forks
// everywhere hold the lock that it needs without a trace; a move soon after another does not wait (kernel/cgroup: cgroup_threadgroup_rwsem, a percpu_rwsem). So a
// process that sees a move coming moves itself to where it is, again and again. The zero value is ready.
type MovePrimer struct {
	mu    sync.Mutex
	until time.Time // +checklocks:mu
	on    bool      // +checklocks:mu
}

// For keeps moves fast for the time d from now on, at least. It does not wait. Where it cannot be done moves are as slow as they are.
func (p *MovePrimer) For(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if until := time.Now().Add(d); until.After(p.until) {
		p.until = until
	}
	if !p.on {
		p.on = true
		go p.run()
	}
}

func (p *MovePrimer) run() {
	file, err := ownProcs()
	if err != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.on = false
		return
	}
	defer file.Close()
	self := strconv.Itoa(os.Getpid())
	tick := time.NewTicker(moveEvery)
	defer tick.Stop()
	for !p.over() {
		// Should it fail, moves take as long as they do.
		_, _ = file.WriteString(self)
		<-tick.C
	}
}

// ownProcs opens the list of processes of this process's v2 cgroup, to write to it.
func ownProcs() (*os.File, error) {
	path, err := UnifiedPath(os.Getpid())
	if err != nil {
		return nil, err
	}
	file, err := Cgroup{Path: path}.unified("cgroup.procs")
	if err != nil {
		return nil, err
	}
	return os.OpenFile(file, os.O_WRONLY, 0)
}

// over says whether the time is up; then the primer is off.
func (p *MovePrimer) over() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = time.Now().Before(p.until)
	return !p.on
}
