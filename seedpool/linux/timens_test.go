package linux

import (
	"os"
	"testing"
	"time"
)

func TestTimeOffsetsAreReadAsTheyAreWritten(t *testing.T) {
	for _, want := range []Clocks{{}, {5 * time.Second, 1}, {-5*time.Second - 1, -time.Second}} {
		if got, err := parseClocks(want.String()); err != nil || got != want {
			t.Errorf("%q is read as %+v, %v; want %+v", want, got, err, want)
		}
	}
	if _, err := parseClocks("monotonic 1\n"); err == nil {
		t.Error("half a line is read")
	}
	if got, err := TimeOffsets(os.Getpid()); err != nil {
		t.Errorf("our own: %+v, %v", got, err)
	}
}
