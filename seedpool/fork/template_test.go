package fork

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCloneOfAStoppedProcessAnswers(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	var first answer
	for n := range 3 {
		c := makeClone(t, template)
		release(t, c)
		got := ask(t, c.PID)
		t.Log(c.Phases)
		want := answer{Count: 1, PID: 1, Threads: 6, Offset: 3, Event: 1, Shared: "seed", File: "3", Host: "clone", Alive: 6, Sum: got.Sum}
		if n == 0 {
			first = got
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("the clone's answer differs from the expected one: %s", diff)
		}
		if got.Sum != first.Sum {
			t.Errorf("private memory of clone %d differs from the first's", n)
		}
		if again := ask(t, c.PID); again.Count != 2 || again.File != "4" || again.Early != 0 {
			t.Errorf("second answer: %+v", again)
		}
	}
}
