package seedpool

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// template asks what the seed's template is, for a start.
func (b *bed) template(s *seed) (stands bool, obstacle string) {
	b.pool.mu.Lock()
	defer b.pool.mu.Unlock()
	return s.fork.stands, s.fork.obstacle(time.Now())
}

// stands waits until a seed's template is there, or gone.
func (b *bed) stands(s *seed, want bool) {
	b.t.Helper()
	b.eventually(fmt.Sprintf("template %v", want), func() error {
		if stands, obstacle := b.template(s); stands != want {
			return fmt.Errorf("stands %v, obstacle %q", stands, obstacle)
		}
		return nil
	})
}

// started reports the start of a container.
func (b *bed) started(client *Client, s *seed, rung Rung) {
	b.t.Helper()
	if _, err := client.Pool.Report(b.t.Context(), &api.ReportRequest{Start: &api.Start{Namespace: "ns", Id: "c1", Seed: s.id, Rung: string(rung)}}); err != nil {
		b.t.Fatal(err)
	}
}

func TestATemplateIsMadeForStartsThatCouldHaveBeenClones(t *testing.T) {
	b := newBed(t)
	b.config.Fork.Enabled = true
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	client := b.serve()
	who, where := b.container("ns", "c1"), b.place("c1")
	where.fork = true
	_, err := p.restoreFor(t.Context(), s.id, who, where)
	if reason, _ := ReasonOf(err); reason != ReasonNoTemplate {
		t.Errorf("a clone without a template: %v", err)
	}
	b.started(client, s, RungCold)
	b.started(client, s, RungThaw)
	if stands, _ := b.template(s); stands {
		t.Error("a template that nobody would have used")
	}
	b.started(client, s, RungRestore)
	b.stands(s, true)
	if found := p.lookup("ns", "sha256:image", keyOf(t, spec())); !found.Template || !found.Forks || found.Unforkable != "" {
		t.Errorf("found %v", found)
	}
	// sproutd looks for keepers now and then: what it finds of this one is no news.
	if err := p.recoverKeepers(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := p.restoreFor(t.Context(), s.id, who, where); err != nil {
		t.Errorf("a clone: %v", err)
	}
	if left := b.leftovers(); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	b.close()
	p = b.recovered()
	if !p.templateStands(p.seeds[s.id]) {
		t.Error("the next sproutd does not know of it")
	}
}

func TestWhatCannotBeCloned(t *testing.T) {
	b := newBed(t)
	b.config.Fork.Enabled = true
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	client := b.serve()
	socket := p.paths.KeeperSocket(s.id)
	if err := os.WriteFile(socket+".unforkable", []byte("it has a kite"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.started(client, s, RungRestore)
	b.eventually("refusal", func() error {
		if found := p.lookup("ns", "sha256:image", keyOf(t, spec())); !errorSays(errors.New(found.Unforkable), "kite") || found.Template {
			return fmt.Errorf("%v", found)
		}
		return nil
	})
	if err := os.Remove(socket + ".unforkable"); err != nil {
		t.Fatal(err)
	}
	b.started(client, s, RungRestore)
	if next, _ := p.nextTemplate(time.Now()); next.seed != nil {
		t.Error("it is tried again")
	}
}

func TestAStartDoesNotPayForAFailingCloneAgainAtOnce(t *testing.T) {
	b := newBed(t)
	b.config.Fork.Enabled = true
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	client := b.serve()
	b.started(client, s, RungRestore)
	b.stands(s, true)
	where := b.place("c1")
	where.fork = true
	b.breakKeeper(s, "no clone today")
	_, err := p.restoreFor(t.Context(), s.id, b.container("ns", "c1"), where)
	if reason, _ := ReasonOf(err); reason != ReasonForkFailed {
		t.Errorf("got %v", err)
	}
	if _, obstacle := b.template(s); !errorSays(errors.New(obstacle), "no clone today") {
		t.Errorf("the next start tries it: %q", obstacle)
	}
	p.mu.Lock()
	s.fork.retryAt = time.Now()
	p.mu.Unlock()
	b.breakKeeper(s, "")
	if _, obstacle := b.template(s); obstacle != "" {
		t.Errorf("later: %s", obstacle)
	}
	i, err := p.restoreFor(t.Context(), s.id, b.container("ns", "c1"), where)
	if err != nil {
		t.Fatal(err)
	}
	p.instance(i.Instance.Id).row.Instance.Cloned = true
	if _, err := client.Pool.Discard(t.Context(), &api.DiscardRequest{Instance: i.Instance.Id, Reason: "creds-differ"}); err != nil {
		t.Fatal(err)
	}
	if _, obstacle := b.template(s); !errorSays(errors.New(obstacle), "creds-differ") {
		t.Errorf("after a clone that was given back: %q", obstacle)
	}
}

func TestATemplateThatNobodyUsesIsGivenUpAndMadeAgain(t *testing.T) {
	b := newBed(t)
	b.config.Fork.Enabled = true
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	client := b.serve()
	next, stop := p.events.follow()
	defer stop()
	b.started(client, s, RungRestore)
	b.stands(s, true)
	idle := time.Duration(p.config.Fork.Idle)
	p.mu.Lock()
	used := s.served
	p.mu.Unlock()
	if step, pause := p.nextTemplate(used.Add(idle - time.Second)); step.seed != nil || pause != time.Second {
		t.Errorf("a second before its time: %v, next look in %s", step.seed, pause)
	}
	b.fill(s, 1)
	later := time.Now().Add(2 * idle)
	if step, pause := p.nextTemplate(later); step.seed != nil || pause != idle {
		t.Errorf("while its pool wants spares: %v, next look in %s", step.seed, pause)
	}
	b.fill(s, 0)
	step, _ := p.nextTemplate(later.Add(idle))
	if step.seed != s {
		t.Fatal("it is kept")
	}
	step.do(t.Context())
	b.stands(s, false)
	var seen []string
	for len(seen) < 2 {
		if event := <-next; event.Kind == EventTemplateMade || event.Kind == EventTemplateGone {
			seen = append(seen, event.Kind+" "+event.Seed+" "+event.Detail)
		}
	}
	if want := []string{"template-made shop ", "template-given-up shop nothing was cloned from it for 10m0s"}; !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	b.started(client, s, RungRestore)
	b.stands(s, true)
}

func TestMemoryIsGivenBackInAnOrder(t *testing.T) {
	b := newBed(t)
	b.config.Fork.Enabled = true
	p := b.recovered()
	client := b.serve()
	one, other := b.seed("ns", "one", keyOf(t, spec())), b.seed("ns", "other", keyOf(t, spec()))
	for _, s := range []*seed{other, one} {
		b.fill(s, 1)
		b.stands(s, true)
		p.mu.Lock()
		s.hot = true
		p.mu.Unlock()
	}
	where := b.place("c1")
	where.fork = true
	runs, err := p.restoreFor(t.Context(), one.id, b.container("ns", "c1"), where)
	if err != nil {
		t.Fatal(err)
	}
	p.instance(runs.Instance.Id).row.Instance.Memory = "shared"
	next, stop := p.events.follow()
	defer stop()
	// As after a look that found that memory is short: nothing is made meanwhile.
	short := p.memory.look(time.Now().Add(time.Hour), memoryState{}, Policy{KeepFree: 1})
	for range 6 {
		p.evict(t.Context(), short, memoryState{})
	}
	var seen []string
	for len(seen) < 5 {
		if event := <-next; slices.Contains([]string{EventEvicting, EventTemplateGone, EventMemoryGone}, event.Kind) {
			seen = append(seen, event.Kind+" "+event.Seed)
		}
	}
	slices.Sort(seen[:2]) // of pools that are equally full any is the first
	want := []string{"evicting one", "evicting other", "template-given-up other", "template-given-up one", "memory-given-up other"}
	if !slices.Equal(seen, want) {
		t.Errorf("%q, want %q", seen, want)
	}
	if p.instance(runs.Instance.Id) == nil || !one.hot {
		t.Error("what runs was touched, or what it shares")
	}
	b.started(client, other, RungRestore)
	if step, pause := p.nextTemplate(time.Now()); step.seed != nil || pause <= 0 {
		t.Errorf("while memory is short a template is made for %v, next look in %s", step.seed, pause)
	}
}
