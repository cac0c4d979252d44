package seedpool

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestStartsTakeTurnsInTheirOrderAndDoNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		all := newTurns(2)
		first, err := all.take(t.Context(), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := all.take(t.Context(), time.Second); err != nil {
			t.Fatal(err)
		}
		came := make(chan int, 3)
		for n := range 3 {
			go func() {
				if _, err := all.take(t.Context(), time.Minute); err == nil {
					came <- n
				}
			}()
			synctest.Wait()
		}
		from := time.Now()
		_, err = all.take(t.Context(), time.Second)
		if reason, _ := ReasonOf(err); reason != ReasonBusy || time.Since(from) != time.Second {
			t.Errorf("after %s: %v", time.Since(from), err)
		}
		gone, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := all.take(gone, time.Second); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		first()
		synctest.Wait()
		if n := <-came; n != 0 || len(came) > 0 {
			t.Errorf("the turn went to number %d, and %d more came", n, len(came))
		}
	})
	if n := cap(newTurns(0)); n < 1 {
		t.Errorf("%d turns", n)
	}
}

func TestAStartThatHasWaitedForLongEnoughIsRefusedAndLeavesNothing(t *testing.T) {
	b := newBed(t)
	b.config.Pool.WakesParallel, b.config.Pool.WakeWait = 1, Duration(10*time.Millisecond)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	done, err := p.turns.take(t.Context(), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.restoreFor(t.Context(), s.id, b.container("ns", "c1"), b.place("c1")); err == nil {
		t.Error("it has not waited")
	} else if reason, _ := ReasonOf(err); reason != ReasonBusy {
		t.Error(err)
	}
	b.nothingLeft()
	done()
	for _, id := range []string{"c1", "c2"} {
		if _, err := p.restoreFor(t.Context(), s.id, b.container("ns", id), b.place(id)); err != nil {
			t.Errorf("the turn that has ended is not the next one's: %v", err)
		}
	}
}
