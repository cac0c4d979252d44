package linux

import (
	"context"
	"errors"
	"sync"
	"testing"
)

func TestReceiveThatWasCancelledDoesNotEndTheNext(t *testing.T) {
	ours, theirs, err := SeqpacketPair("control")
	if err != nil {
		t.Fatal(err)
	}
	defer theirs.Close()
	c, err := NewControl(ours)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	buf := make([]byte, 16)
	send := func() {
		if _, err := theirs.Write([]byte("word")); err != nil {
			t.Error(err)
		}
	}
	for range 20000 {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(send)
		wg.Go(cancel)
		n, _, err := c.Receive(ctx, buf)
		if err != nil && !errors.Is(err, context.Canceled) || err == nil && n != 4 {
			t.Fatalf("%d bytes, %v", n, err)
		}
		if err == nil {
			wg.Go(send)
		}
		if n, _, err := c.Receive(t.Context(), buf); err != nil || n != 4 {
			t.Fatalf("the next: %d bytes, %v", n, err)
		}
		wg.Wait()
	}
}
