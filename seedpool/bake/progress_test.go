package bake

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

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
		if diff := cmp.Diff([]uint32{1, 1, 1, 3}, sent); diff != "" {
			t.Error(diff)
		}
	})
}

func TestWaitingCountsItsSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent []uint32
		p := newProgress(func(e *api.BakeEvent) { sent = append(sent, e.GetDone()) })
		err := p.during(func() error {
			p.wait(StepReady, "x", time.Now(), time.Minute)
			time.Sleep(2*time.Second + time.Millisecond)
			return nil
		})
		if diff := cmp.Diff([]uint32{0, 1, 2}, sent); err != nil || diff != "" {
			t.Error(diff)
		}
	})
}

func TestProgressNeedsNoListener(t *testing.T) {
	p := newProgress(nil)
	if err := p.during(func() error { p.set(StepBoot, "x", 0, 0); return nil }); err != nil {
		t.Error(err)
	}
}
