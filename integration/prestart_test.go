package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

// bakedPrestart is the python app, each spare of which is booted on its own: what a seed is when nobody says otherwise.
func bakedPrestart(t *testing.T, s *stack.Stack, args ...string) string {
	t.Helper()
	if _, err := s.Sprout(t.Context(), append([]string{"seed", "bake", "--name", "own", "--image", stack.Ref("python-demo"), "--ready", "http://:8080/random", "--warmup", "3"}, args...)...); err != nil {
		t.Fatal(err)
	}
	return "own"
}

func TestPrestartedInstancesShareNothingRandom(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	seed := bakedPrestart(t, s)
	for _, question := range [][]string{{"seed", "inspect", seed}, {"seed", "ls"}} {
		if out, err := s.Sprout(t.Context(), question...); err != nil || !strings.Contains(out, "prestart") {
			t.Errorf("%v does not tell the mode: %v\n%s", question, err, out)
		}
	}
	if out, err := s.Sprout(t.Context(), "seed", "verify", seed); err != nil {
		t.Errorf("%v: %s", err, out)
	}
	setPool(t, s, seed, 2)
	var both []map[string]any
	for _, id := range []string{"own-one", "own-two"} {
		run(t, s, id, "python-demo", "--label", "which="+id)
		if out := wantRung(t, s, id, "thaw"); !strings.Contains(out, "mode prestart") || !strings.Contains(out, "0 fallbacks") {
			t.Errorf("%s: %s", id, out)
		}
		both = append(both, draws(t, s, id, "/random"))
	}
	for generator := range both[0] {
		if both[0][generator] == both[1][generator] {
			t.Errorf("%s: both drew %v", generator, both[0][generator])
		}
	}
	if out, err := s.Ctr(t.Context(), "task", "exec", "--exec-id", "one", "own-one", "cat", "/run/sprout/instance"); err != nil || !strings.Contains(out, `"own-one"`) {
		t.Errorf("the instance does not know who it is: %v %s", err, out)
	}

	setPool(t, s, seed, 0)
	run(t, s, "own-cold", "python-demo")
	if out := wantRung(t, s, "own-cold", "cold"); !strings.Contains(out, "no-spare") || !strings.Contains(out, "--mode clone") {
		t.Errorf("without a spare: %s", out)
	}
}

func TestPrestartedSparesAreReplacedWhenTheyDieAndKeptWhenSproutdDoes(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	seed := bakedPrestart(t, s)
	setPool(t, s, seed, 2)
	spares := func() []int {
		pids, err := s.SparePIDs()
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(pids)
		return pids
	}
	before := spares()
	kill(t, s.SproutdPID())
	s.WaitSproutd()
	if err := s.StartSproutd(t.Context()); err != nil {
		t.Fatal(err)
	}
	setPool(t, s, seed, 2)
	if after := spares(); !slices.Equal(before, after) {
		t.Errorf("spares %v before sproutd was killed, %v after", before, after)
	}
	for n, victim := range []func(){
		func() { kill(t, before[0]) },
		func() { kill(t, program(t, s, "sproutd", "keeper")[0]) },
	} {
		victim()
		eventually(t, func() error {
			if _, err := s.Sprout(t.Context(), "pool", "set", seed, "--spares", "2", "--wait"); err != nil {
				return err
			}
			if slices.Contains(spares(), before[0]) {
				return fmt.Errorf("spare %d is still there", before[0])
			}
			return nil
		})
		before = spares()
		id := fmt.Sprint("own-after-", n)
		run(t, s, id, "python-demo")
		get(t, s, id, "/")
		// A spare whose death nobody has seen yet is passed over for the next one.
		wantRung(t, s, id, "thaw")
		remove(t, s, id)
	}
}

// TestTheHeapOfASpareIsTrimmed has a JVM give back what it needed to boot; its socket, which nobody else has asked for, tells that it was spoken to. Of what is in its image the
// registry boots soonest.
func TestTheHeapOfASpareIsTrimmed(t *testing.T) {
	s := house
	if err := s.Import(t.Context(), "tomcat-demo"); err != nil {
		t.Fatal(err)
	}
	command := []string{"java", "-XX:+UseG1GC", "-m", "java.rmi/sun.rmi.registry.RegistryImpl", "1099"}
	args := append([]string{"seed", "bake", "--name", "trimmed", "--image", stack.Ref("tomcat-demo"), "--ready", "tcp://:1099", "--trim", "--"}, command...)
	if _, err := s.Sprout(t.Context(), args...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := s.Sprout(contextOf(t), "seed", "rm", "trimmed"); err != nil {
			t.Error(err)
		}
	})
	setPool(t, s, "trimmed", 1)
	if _, err := s.Ctr(t.Context(), append([]string{"run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter, stack.Ref("tomcat-demo"), "trimmed"}, command...)...); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, s, "trimmed") })
	wantRung(t, s, "trimmed", "thaw")
	root := fmt.Sprintf("/proc/%d/root/tmp/", pid(t, s, "trimmed"))
	if info, err := os.Stat(root + ".java_pid1"); err != nil || info.Mode()&os.ModeSocket == 0 {
		t.Errorf("nobody has spoken to the JVM: %v %v", info, err)
	}
	if left, err := filepath.Glob(root + ".attach_pid*"); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v %v", left, err)
	}
}
