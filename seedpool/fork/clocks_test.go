package fork

import (
	"encoding/json"
	"testing"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// A clone's clocks go on where its template's stopped, as if it had been made then.
func TestClocksOfACloneDoNotJumpByTheAgeOfItsTemplate(t *testing.T) {
	template := makeTemplate(t, startScript(t, "", "  print([time.clock_gettime_ns(1), time.clock_gettime_ns(7)], flush=True)\n"))
	stopped := &template.clocks.stopped
	age := stopped.Monotonic / 2 // half of the time that the machine is up
	stopped.Monotonic, stopped.Boottime = stopped.Monotonic-age, stopped.Boottime-age
	for range 2 {
		before, err := linux.ReadClocks()
		if err != nil {
			t.Fatal(err)
		}
		line, _ := talk(t, template, Sandbox{OwnNet: true}, Files{}, "tell")
		var said linux.Clocks
		if err := json.Unmarshal([]byte(line), &[]any{&said.Monotonic, &said.Boottime}); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		after, err := linux.ReadClocks()
		if err != nil {
			t.Fatal(err)
		}
		ran, most := said.Sub(*stopped), after.Sub(before)
		if ran.Monotonic < 0 || ran.Boottime < 0 || ran.Monotonic > most.Monotonic || ran.Boottime > most.Boottime {
			t.Errorf("the clone's clocks have gone on by %v, which took %v", ran, most)
		}
	}
}
