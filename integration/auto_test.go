package integration

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

// TestAContainerThatAsksForItIsWokenTheSecondTime has the seed of the second start baked by the first, which says no more than that it wants one: when it is ready its image tells.
func TestAContainerThatAsksForItIsWokenTheSecondTime(t *testing.T) {
	s := house
	like := []string{"--annotation", "sprout.dev/auto=true", "--env", "WANTED=automatically"}
	run(t, s, "auto-first", "python-demo", like...)
	get(t, s, "auto-first", "/")
	wantRung(t, s, "auto-first", "cold")
	eventually(t, func() error {
		if out := explain(t, s, "auto-first"); !strings.Contains(out, "is being baked") {
			return fmt.Errorf("explain does not say what comes of it: %s", out)
		}
		return nil
	})
	var seed string
	eventually(t, func() error {
		out, err := s.Sprout(t.Context(), "seed", "ls")
		for line := range strings.Lines(out) {
			if strings.Contains(line, "(automatic)") && strings.Contains(line, " 1/1 ") {
				seed = strings.Fields(line)[1]
				return nil
			}
		}
		return fmt.Errorf("no automatic seed with a spare: %w\n%s", err, out)
	})
	t.Cleanup(func() {
		if _, err := s.Sprout(contextOf(t), "seed", "rm", seed); err != nil {
			t.Error(err)
		}
	})
	run(t, s, "auto-second", "python-demo", like...)
	if out := wantRung(t, s, "auto-second", "thaw"); !strings.Contains(out, "mode prestart") {
		t.Error(out)
	}
	get(t, s, "auto-second", "/")
	get(t, s, "auto-first", "/")
	if out, err := s.Sprout(t.Context(), "seed", "inspect", seed); err != nil || !strings.Contains(out, "baked by sproutd") || !strings.Contains(out, stack.Ref("python-demo")) {
		t.Errorf("%v %s", err, out)
	}
}
