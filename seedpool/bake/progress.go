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

	// mu is above what it guards: the event as it stands.
	mu    sync.Mutex
	event *api.BakeEvent
}

func newProgress(send func(*api.BakeEvent)) *progress {
	if send == nil {
		send = func(*api.BakeEvent) {}
	}
	return &progress{send: send, changed: make(chan struct{}, 1), event: &api.BakeEvent{}}
}

// set replaces the event; nothing is sent when it says what it said.
func (p *progress) set(step Step, message string, done, total int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := &api.BakeEvent{Step: string(step), Message: message, Done: uint32(done), Total: uint32(total)}
	if e.Step == p.event.Step && e.Message == p.event.Message && e.Done == p.event.Done && e.Total == p.event.Total {
		return
	}
	p.event = e
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
	e := p.event
	p.mu.Unlock()
	p.send(e)
}
