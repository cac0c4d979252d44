package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestEachDemoAppIsClonedOrSaysWhyNot(t *testing.T) {
	s := configuredStack(t, "[fork]\nenabled = true\n", "tomcat-demo", "node-demo", "php-demo", "redis-demo")
	for _, app := range []struct{ name, ready, warmup, port, refused string }{
		{"tomcat-demo", "http://:8080/", "50", "8080", ""},
		{"node-demo", "http://:8080/", "20", "8080", ""},
		{"redis-demo", "tcp://:6379", "0", "", ""},
		{"php-demo", "http://:8080/", "20", "8080", "not of the first one"},
	} {
		t.Run(app.name, func(t *testing.T) {
			seed := baked(t, s, app.name, app.name, "--ready", app.ready, "--warmup", app.warmup)
			answers := func(id string) {
				if app.port != "" {
					get(t, s, id, "/")
				} else {
					pingRedis(t, s, id)
				}
			}
			setPool(t, s, seed, 1)
			run(t, s, app.name+"-thaw", app.name)
			wantRung(t, s, app.name+"-thaw", "thaw")
			answers(app.name + "-thaw")
			setPool(t, s, seed, 0)
			rung := "fork"
			if app.refused != "" {
				rung = "restore"
			}
			run(t, s, app.name+"-fork", app.name)
			said := wantRung(t, s, app.name+"-fork", rung)
			answers(app.name + "-fork")
			if app.refused == "" && app.port != "" {
				soak(t, s, app.name)
			}
			inspected, err := s.Sprout(t.Context(), "seed", "inspect", seed)
			if err != nil {
				t.Fatal(err)
			}
			if app.refused == "" && !strings.Contains(inspected, "yes") {
				t.Errorf("inspect says:\n%s", inspected)
			}
			if app.refused != "" && (!strings.Contains(said, "not-forkable") || !strings.Contains(inspected, app.refused)) {
				t.Errorf("explain says:\n%s\ninspect says:\n%s", said, inspected)
			}
		})
	}
}

func TestTenClonesAnswerAThousandRequestsEach(t *testing.T) {
	s := wake{"fork", "fork", 0, true}.ready(t)
	soak(t, s, "python-demo")
}

// soak has ten clones of an image alive at once, and asks each a thousand times, all at the same time: every request must be answered.
func soak(t *testing.T, s *stack.Stack, image string) {
	t.Helper()
	const clones, requests = 10, 1000
	var pids []int
	for n := range clones {
		id := fmt.Sprintf("%s-soak-%d", image, n)
		run(t, s, id, image)
		wantRung(t, s, id, "fork")
		get(t, s, id, "/")
		pids = append(pids, pid(t, s, id))
	}
	var wg sync.WaitGroup
	for _, pid := range pids {
		wg.Go(func() {
			if err := stack.GetMany(pid, "8080", "/", requests); err != nil {
				t.Errorf("clone %d: %v", pid, err)
			}
		})
	}
	wg.Wait()
	for n := range clones {
		remove(t, s, fmt.Sprintf("%s-soak-%d", image, n))
	}
}

func TestAStartDoesNotWaitForATemplate(t *testing.T) {
	s := configuredStack(t, "[fork]\nenabled = true\n", "python-demo")
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
	s := configuredStack(t, "[fork]\nenabled = true\n", "python-demo")
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
