package bake

import (
	"sync"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// beat is how often a step that changes nothing is reported.
const beat = time.Second

// progress tells the caller what the bake does. set may be called from any goroutine; the caller's function is called only by during, one
// call at a time.
type progress struct {
	send    func(*api.BakeEvent)
	changed chan struct{}

	// mu is above what it guards: the event as it stands, and since when its seconds are counted; zero: they are not.
	mu    sync.Mutex
	event *api.BakeEvent
	since time.Time
}

func newProgress(send func(*api.BakeEvent)) *progress {
	if send == nil {
		send = func(*api.BakeEvent) {}
	}
	return &progress{send: send, changed: make(chan struct{}, 1), event: &api.BakeEvent{}}
}

// set replaces the event; nothing is sent when it says what it said.
func (p *progress) set(step Step, message string, done, total int) {
	p.replace(&api.BakeEvent{Step: string(step), Message: message, Done: uint32(done), Total: uint32(total)}, time.Time{})
}

// wait replaces the event by one whose done counts the seconds since then, out of limit.
func (p *progress) wait(step Step, message string, since time.Time, limit time.Duration) {
	p.replace(&api.BakeEvent{Step: string(step), Message: message, Total: uint32(limit / time.Second)}, since)
}

func (p *progress) replace(e *api.BakeEvent, since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if e.Step == p.event.Step && e.Message == p.event.Message && e.Done == p.event.Done && e.Total == p.event.Total {
		return
	}
	p.event, p.since = e, since
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// during sends the event on every change and each second until do returns; the last change is sent before it returns.
func (p *progress) during(do func() error) error {
	finished := make(chan error, 1)
	go func() { finished <- do() }()
	each := time.NewTicker(beat)
	defer each.Stop()
	for {
		select {
		case <-p.changed:
			p.sendNow()
		case <-each.C:
			p.sendNow()
		case err := <-finished:
			select {
			case <-p.changed:
				p.sendNow()
			default:
			}
			return err
		}
	}
}

func (p *progress) sendNow() {
	p.mu.Lock()
	e := &api.BakeEvent{Step: p.event.Step, Message: p.event.Message, Done: p.event.Done, Total: p.event.Total}
	if !p.since.IsZero() {
		e.Done = uint32(time.Since(p.since) / time.Second)
	}
	p.mu.Unlock()
	p.send(e)
}
