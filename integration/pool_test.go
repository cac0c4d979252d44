package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// poolOf is what sprout says of the pool of the only seed.
func poolOf(t *testing.T, s *stack.Stack) (p struct {
	Want, Ready, Min, Max int
	EvictedTotal          int `json:"evicted_total,string"`
},
) {
	t.Helper()
	out, err := s.Sprout(t.Context(), "pool", "ls", "--json")
	if err != nil {
		t.Fatal(err)
	}
	list := []any{&p}
	if err := json.Unmarshal([]byte(out), &list); err != nil || len(list) != 1 {
		t.Fatalf("%v: %s", err, out)
	}
	return p
}

func TestAPoolGrowsWithABurst(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	seed := bakedPython(t, s)
	if _, err := s.Sprout(t.Context(), "pool", "set", seed, "--spares", "1", "--max", "3", "--wait"); err != nil {
		t.Fatal(err)
	}
	if p := poolOf(t, s); p.Want != 1 || p.Min != 1 || p.Max != 3 {
		t.Errorf("before the burst: %+v", p)
	}
	for n := range 4 {
		run(t, s, fmt.Sprint("burst-", n), "python-demo")
	}
	eventually(t, func() error {
		if p := poolOf(t, s); p.Want != 3 || p.Ready != 3 {
			return fmt.Errorf("after the burst: %+v", p)
		}
		return nil
	})
	if _, err := s.Sprout(t.Context(), "pool", "set", seed, "--spares", "2", "--max", "1"); err == nil {
		t.Error("at most less than at least is accepted")
	}
	for _, names := range [][]string{{seed}, {"--all"}} {
		if _, err := s.Sprout(t.Context(), append([]string{"pool", "drain"}, names...)...); err != nil {
			t.Error(err)
		}
		if p := poolOf(t, s); p.Max != 0 || p.Ready != 0 {
			t.Errorf("drained: %+v", p)
		}
	}
	if _, err := s.Sprout(t.Context(), "pool", "drain"); err == nil {
		t.Error("no pool at all is drained")
	}
	setPool(t, s, seed, 1) // and no more
	eventually(t, func() error {
		if p := poolOf(t, s); p.Want != 1 || p.Ready != 1 {
			return fmt.Errorf("with a fixed size: %+v", p)
		}
		return nil
	})
}

func TestWhatContainersHaveIsNotTakenForTheSpares(t *testing.T) {
	t.Parallel()
	// A spare of the python app was charged with 60 to 80 MB when it was made, which stay with the pool's cgroup when it is thawed.
	s := configuredStack(t, stack.Restoring+"[pool]\nmemory = \"160MiB\"\n", "python-demo")
	seed := bakedPython(t, s)
	for n := range 4 {
		setPool(t, s, seed, 1)
		run(t, s, fmt.Sprint("was-spare-", n), "python-demo")
		wantRung(t, s, fmt.Sprint("was-spare-", n), "thaw")
	}
	setPool(t, s, seed, 1)
	if p := poolOf(t, s); p.EvictedTotal != 0 {
		t.Errorf("with four containers that were spares: %+v", p)
	}
}

func TestSparesAreGivenBackWhenTheirMemoryIsNeededAndContainersAreNot(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Restoring+"[pool]\nmemory = \"8MiB\"\n", "python-demo")
	seed := bakedPython(t, s)
	run(t, s, "stays", "python-demo")
	if _, err := s.Sprout(t.Context(), "pool", "set", seed, "--spares", "2"); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() error {
		if p := poolOf(t, s); p.EvictedTotal == 0 || p.Ready > 0 {
			return fmt.Errorf("spares that take more than they may: %+v", p)
		}
		return nil
	})
	if out, err := s.Sprout(t.Context(), "pool", "ls"); err != nil || !strings.Contains(out, "spares take what they may") {
		t.Errorf("pool ls does not say why there are none: %v\n%s", err, out)
	}
	get(t, s, "stays", "/")
	run(t, s, "starts", "python-demo")
	get(t, s, "starts", "/")
	// One that was being made may have come just then.
	if said := explain(t, s, "starts"); !strings.Contains(said, "rung restore") && !strings.Contains(said, "rung thaw") {
		t.Error(said)
	}
}

func TestEventsFollowAStart(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	seed := bakedPython(t, s)
	setPool(t, s, seed, 1)
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	follow := s.Command(ctx, "sprout", "events", "--json")
	out, err := follow.StdoutPipe()
	if err == nil {
		err = follow.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		stop()
		_ = follow.Wait() // it was killed
	}()
	var kinds []string
	for lines := bufio.NewScanner(out); lines.Scan(); {
		var event struct{ Kind, Seed, Container, Rung string }
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			t.Fatalf("%s: %v", lines.Text(), err)
		}
		if event.Kind == "following" {
			run(t, s, "followed", "python-demo")
		}
		if event.Container != "followed" {
			continue
		}
		kinds = append(kinds, event.Kind)
		if event.Kind == "started" {
			if event.Rung != "thaw" || event.Seed != seed {
				t.Errorf("started: %+v", event)
			}
			break
		}
	}
	if len(kinds) < 2 || kinds[0] != "claimed" {
		t.Errorf("of one start there were events %v", kinds)
	}
}
