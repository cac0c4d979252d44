package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestEachDemoAppIsClonedOrSaysWhyNot(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Cloning, "tomcat-demo", "node-demo", "php-demo", "redis-demo", "gunicorn-demo")
	for _, app := range apps {
		t.Run(app.name, func(t *testing.T) {
			seed := app.bake(t, s)
			answers := func(id, rung string) (said string) {
				first, said := app.run(t, s, id, rung)
				if err := app.ask(first, 1); err != nil {
					t.Errorf("%s: %v", id, err)
				}
				return said
			}
			setPool(t, s, seed, 1)
			answers(app.name+"-thaw", "thaw")
			setPool(t, s, seed, 0)
			inspected, err := s.Sprout(t.Context(), "seed", "inspect", seed)
			if err != nil {
				t.Fatal(err)
			}
			if app.refused != "" {
				if said := answers(app.name+"-restore", "restore"); !strings.Contains(said, "not-forkable") || !strings.Contains(inspected, app.refused) {
					t.Errorf("explain says:\n%s\ninspect says:\n%s", said, inspected)
				}
				return
			}
			if !strings.Contains(inspected, "yes") {
				t.Errorf("inspect says:\n%s", inspected)
			}
			soak(t, s, app)
		})
	}
}

func TestTenClonesAnswerAThousandRequestsEach(t *testing.T) {
	soak(t, wake{"fork", "fork", 0, true}.ready(t), python)
}

func TestAStartDoesNotWaitForATemplate(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Cloning, "python-demo")
	setPool(t, s, bakedPython(t, s), 0)
	kill(t, templateProcess(t, s, "keeper")) // with it goes the template that the bake was tried with
	run(t, s, "first", "python-demo")
	if said := wantRung(t, s, "first", "restore"); !strings.Contains(said, "no-template") {
		t.Errorf("explain says:\n%s", said)
	}
	get(t, s, "first", "/")
	eventually(t, func() error {
		inspected, err := s.Sprout(t.Context(), "seed", "inspect", "python")
		if err == nil && strings.Contains(inspected, "no:") {
			t.Errorf("inspect says:\n%s", inspected)
		}
		return err
	})
	forked(t, s, "second")
}

// forked starts a container until one is cloned: the template may still be made.
func forked(t *testing.T, s *stack.Stack, id string) {
	t.Helper()
	eventually(t, func() error {
		run(t, s, id, "python-demo")
		said := explain(t, s, id)
		if strings.Contains(said, "rung fork,") {
			get(t, s, id, "/")
			return nil
		}
		remove(t, s, id)
		return errNotCloned(said)
	})
}

type errNotCloned string

func (e errNotCloned) Error() string { return "not cloned: " + string(e) }

func TestKillingKeeperZygoteTemplateOrHolderLeavesClonesAlone(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Cloning, "python-demo")
	seed := bakedPython(t, s)
	for _, victim := range []string{"zygote", "template", "holder", "keeper"} {
		t.Run(victim, func(t *testing.T) {
			setPool(t, s, seed, 1)
			setPool(t, s, seed, 0)
			forked(t, s, "survivor-"+victim)
			kill(t, templateProcess(t, s, victim))
			if victim == "holder" {
				eventually(t, func() error {
					if lives(pid(t, s, "survivor-"+victim)) {
						return errNotCloned("it lives without its pid namespace")
					}
					return nil
				})
			} else {
				get(t, s, "survivor-"+victim, "/")
				if status := exitOf(t, s, "survivor-"+victim, "/exit?code=7"); status != 7 {
					t.Errorf("exit status %d", status)
				}
			}
			// Starts go on, and soon they are clones again.
			run(t, s, "next-"+victim, "python-demo")
			get(t, s, "next-"+victim, "/")
			remove(t, s, "next-"+victim)
			forked(t, s, "again-"+victim)
			remove(t, s, "again-"+victim)
			remove(t, s, "survivor-"+victim)
			for _, pid := range program(t, s, "sproutd", "keeper") {
				kill(t, pid) // for the next, with a template of its own
			}
		})
	}
}

// templateProcess is one of those that stand behind the clones of the one seed.
func templateProcess(t *testing.T, s *stack.Stack, name string) int {
	t.Helper()
	var pids []int
	switch name {
	case "keeper", "holder":
		pids = program(t, s, "sproutd", name)
	default:
		root, err := linux.UnifiedRoot()
		if err != nil {
			t.Fatal(err)
		}
		cgroup := map[string]string{"zygote": "awake", "template": "frozen"}[name]
		dirs, err := filepath.Glob(filepath.Join(root, s.CgroupRoot(), "templates", "*", cgroup))
		if err != nil {
			t.Fatal(err)
		}
		for _, dir := range dirs {
			more, err := linux.Cgroup{Path: strings.TrimPrefix(dir, root)}.Procs()
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, more...)
		}
	}
	if len(pids) != 1 {
		t.Fatalf("%s: processes %v", name, pids)
	}
	return pids[0]
}
