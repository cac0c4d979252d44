package keeper

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
)

// mostGenerations bounds how many templates one keeper makes in place of those that have died: a zygote that dies and dies will die again.
const mostGenerations = 4

// generations are the templates of the seed, one at a time. When a zygote has died, or its template is given up, that is ended, and the next request for a clone has another
// made; clones of the old one go on.
type generations struct {
	mu    sync.Mutex
	now   *template // +checklocks:mu
	count int       // +checklocks:mu: those that were given up are not counted
}

func newGenerations() *generations {
	return &generations{now: newTemplate(nil), count: 1}
}

func (g *generations) current() *template {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now
}

// retire ends a template that makes no more clones, without keeping the caller. The error says whether there may be another: Unavailable, not yet; FailedPrecondition, no.
func (g *generations) retire(old *template) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.now != old {
		return fmt.Errorf("another template is to be made: %w", errdefs.ErrUnavailable)
	}
	if g.count == mostGenerations {
		return fmt.Errorf("the last of %d templates: %w", mostGenerations, errdefs.ErrFailedPrecondition)
	}
	g.count++
	g.replaceLocked()
	return fmt.Errorf("another template is to be made: %w", errdefs.ErrUnavailable)
}

// replaceLocked ends the template, and gives its place to one that is yet to be made, when ended is closed. The caller holds mu.
func (g *generations) replaceLocked() (ended <-chan struct{}) {
	old, done := g.now, make(chan struct{})
	g.now = newTemplate(done)
	go func() {
		defer close(done)
		if err := old.end(); err != nil {
			log.L.WithError(err).Error("end template")
		}
	}()
	return done
}

// giveUp ends the template that stands; the next request for a clone has another made. nil: none stands.
func (g *generations) giveUp() (ended <-chan struct{}) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.now.stands() {
		return nil
	}
	return g.replaceLocked()
}

// end ends the template that there may be, when no clone will be asked for any more.
func (g *generations) end() error {
	t := g.current()
	err := t.end()
	if t.after != nil {
		<-t.after
	}
	return err
}
