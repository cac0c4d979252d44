package bake

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestProgressIsSentOnChangeAndEachSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []uint32
		p := newProgress(func(e *api.BakeEvent) { sent = append(sent, e.Done) })
		err := p.during(func() error {
			p.set(StepWarmup, "x", 1, 3)
			synctest.Wait()
			p.set(StepWarmup, "x", 1, 3)
			time.Sleep(2*time.Second + time.Millisecond)
			p.set(StepWarmup, "x", 3, 3)
			return errors.New("over")
		})
		if err == nil || err.Error() != "over" {
			t.Errorf("error %v", err)
		}
		if want := []uint32{1, 1, 1, 3}; len(sent) != len(want) || sent[0] != 1 || sent[3] != 3 {
			t.Errorf("sent %v, want %v", sent, want)
		}
	})
}

func TestProgressNeedsNoListener(t *testing.T) {
	p := newProgress(nil)
	if err := p.during(func() error { p.set(StepBoot, "x", 0, 0); return nil }); err != nil {
		t.Error(err)
	}
}
