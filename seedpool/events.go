package seedpool

import (
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Kinds of events.
const (
	// EventFollowing is the first of every stream: nothing that happens after it is missed.
	EventFollowing   = "following"
	EventSeedBaked   = "seed-baked"
	EventSeedBad     = "seed-bad"
	EventSeedRemoved = "seed-removed"
	// EventRebuilding and EventRebuildFailed are about a seed that is baked again because it is not right any more.
	EventRebuilding    = "rebuilding"
	EventRebuildFailed = "rebuild-failed"
	// EventAutoBaking and EventAutoFailed are about a seed that a cold start has asked for.
	EventAutoBaking  = "auto-baking"
	EventAutoFailed  = "auto-failed"
	EventSpareReady  = "spare-ready"
	EventSpareFailed = "spare-failed"
	EventEvicting    = "evicting"
	EventClaimed     = "claimed"
	EventBound       = "bound"
	EventDestroying  = "destroying"
	EventStarted     = "started"
	EventKeeperEnded = "keeper-ended"
	EventAsleep      = "asleep"
	EventAwake       = "awake"
	EventMerged      = "merged"
	// EventTemplateMade and what follows are about what a keeper has in memory for later instances.
	EventTemplateMade   = "template-made"
	EventTemplateFailed = "template-failed"
	EventTemplateGone   = "template-given-up"
	EventMemoryGone     = "memory-given-up"
)

// movedTo is the event of an instance that has come into a phase.
var movedTo = map[phase]string{phaseReady: EventSpareReady, phaseClaimed: EventClaimed, phaseBound: EventBound, phaseDying: EventDestroying}

// eventsKept is how many events wait for a follower that is slow.
const eventsKept = 256

// events tells whoever follows what the pool does. Nothing waits for a follower: one that does not keep up loses events, and is told how many. The zero value has none.
type events struct {
	mu        sync.Mutex
	followers map[*follower]bool // +checklocks:mu
}

type follower struct {
	next chan *api.Event
	lost uint64 // guarded by events.mu
}

// tell may be called with any lock held.
func (e *events) tell(event *api.Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.followers) == 0 {
		return
	}
	event.AtUnixNanoseconds = time.Now().UnixNano()
	for f := range e.followers {
		one := proto.CloneOf(event)
		one.Lost = f.lost
		select {
		case f.next <- one:
			f.lost = 0
		default:
			f.lost++
		}
	}
}

// follow gets all events from now on, until stop is called.
func (e *events) follow() (next <-chan *api.Event, stop func()) {
	f := &follower{next: make(chan *api.Event, eventsKept)}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.followers == nil {
		e.followers = make(map[*follower]bool)
	}
	e.followers[f] = true
	return f.next, func() {
		e.mu.Lock()
		defer e.mu.Unlock()
		delete(e.followers, f)
	}
}

// tellMove tells of an instance's new phase. The caller holds Pool.mu.
func (p *Pool) tellMove(i *instance) {
	event := &api.Event{Kind: movedTo[i.phase()], Seed: i.seed, Instance: i.id, Namespace: i.row.Namespace, Container: i.row.Container}
	if s := p.seeds[i.seed]; s != nil {
		event.Namespace, event.Seed = s.namespace, s.meta.Info.Name
	}
	p.events.tell(event)
}

// tellStart tells of a start that its shim reports: the reason is that of the last rung which was passed over.
func (p *Pool) tellStart(start *api.Start) {
	event := &api.Event{Kind: EventStarted, Namespace: start.Namespace, Container: start.Id, Rung: start.Rung}
	if start.Seed != "" {
		event.Seed = p.seedName(start.Seed)
	}
	if n := len(start.Fallbacks); n > 0 {
		event.Detail = start.Fallbacks[n-1].Reason
	}
	p.events.tell(event)
}
