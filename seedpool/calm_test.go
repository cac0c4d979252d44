package seedpool

import (
	"testing"
	"time"
)

func TestWhatIsForLaterWaitsForAStart(t *testing.T) {
	var c calm
	now := time.Unix(100, 0)
	if w := c.wait(now); w != 0 {
		t.Errorf("without any start it waits %s", w)
	}
	c.disturb(now)
	if w := c.wait(now.Add(50 * time.Millisecond)); w != startTime-50*time.Millisecond {
		t.Errorf("after a start it waits %s", w)
	}
	if w := c.wait(now.Add(startTime)); w != 0 {
		t.Errorf("when the start is over it waits %s", w)
	}
}

func TestStartsWithoutAPauseDoNotPutItOffForEver(t *testing.T) {
	var c calm
	began := time.Unix(100, 0)
	waited := time.Duration(0)
	for now := began; ; now = now.Add(startTime / 5) {
		c.disturb(now)
		if c.wait(now) == 0 {
			waited = now.Sub(began)
			break
		}
	}
	if waited != calmLimit {
		t.Errorf("it was put off for %s, want %s", waited, calmLimit)
	}
	if c.disturb(began.Add(2 * calmLimit)); c.wait(began.Add(2*calmLimit)) != startTime {
		t.Error("the next start is not left alone")
	}
}
