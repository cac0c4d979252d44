package integration

import (
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

func TestTopShowsWhatInstancesShare(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Cloning, "python-demo")
	seed := bakedPython(t, s)
	setPool(t, s, seed, 1) // so that the template stands
	for n, id := range []string{"one", "two"} {
		setPool(t, s, seed, 1-n)
		run(t, s, id, "python-demo")
		get(t, s, id, "/pid")
	}
	run(t, s, "cold", "python-demo", "--env", "NOT_IN_ANY_SEED=1")
	setPool(t, s, seed, 1)
	seen := make(map[string]int)
	for _, u := range usages(t, s) {
		what := strings.TrimSpace(u.Kind + " " + u.Rung)
		seen[what]++
		if u.Processes == 0 || u.Private > u.Physical || u.Physical > u.Logical {
			t.Errorf("not private ≤ physical ≤ logical: %+v", u)
		}
		// What was cloned shares most of its memory, what was booted shares only programs.
		shares := u.Physical < u.Logical/2
		if clone := u.Kind == "spare" || u.Rung == "thaw" || u.Rung == "fork"; clone != shares && u.Kind != "template" && u.Kind != "keeper" {
			t.Errorf("%s %s shares memory: %v: %+v", what, u.ID, shares, u)
		}
		if (u.Rung == "cold") != (u.Seed == "") || u.Seed != "" && u.Seed != seed {
			t.Errorf("%s belongs to seed %q", what, u.Seed)
		}
	}
	for what, want := range map[string]int{"container thaw": 1, "container fork": 1, "container cold": 1, "spare": 1, "template": 1, "keeper": 1} {
		if seen[what] != want {
			t.Errorf("%d of %q, want %d: %v", seen[what], what, want, seen)
		}
	}
	for _, args := range [][]string{{"top"}, {"top", "--once", "-A"}} {
		if out, err := s.Sprout(t.Context(), args...); err != nil || !strings.Contains(out, "LOGICAL/PHYSICAL") || !strings.Contains(out, "two") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}
