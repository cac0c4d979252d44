package seedpool

import (
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func TestASpareIsForeseenForAContainerOfItsImage(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	who := b.container("ns", "c1")
	rung := RungThaw
	foresee := func(what, namespace, id, upperdir string) {
		t.Helper()
		want := Foreseen{}
		if upperdir != "" {
			want = Foreseen{rung, upperdir}
		}
		if got := p.Foresee(namespace, id); got != want {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	foresee("no spare", "ns", "c1", "")
	b.fill(s, 1)
	foresee("a spare", "ns", "c1", who.upperdir)
	foresee("no snapshot", "ns", "c2", "")
	foresee("another namespace", "elsewhere", "c1", "")
	change := func(to func(*api.SeedInfo)) {
		p.mu.Lock()
		defer p.mu.Unlock()
		to(s.meta.Info)
	}
	fork := func(f forkState) {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.config.Fork.Enabled, s.fork = true, f
	}
	fork(forkState{stands: true})
	foresee("a spare and a template", "ns", "c1", who.upperdir)
	b.fill(s, 0)
	rung = RungFork
	foresee("a template", "ns", "c1", who.upperdir)
	fork(forkState{stands: true, refused: "its zygote has died"})
	foresee("a template that has gone", "ns", "c1", "")
	fork(forkState{})
	foresee("no template yet", "ns", "c1", "")
	b.fill(s, 1)
	change(func(i *api.SeedInfo) { i.Phase = SeedStale })
	foresee("a stale seed", "ns", "c1", "")
	change(func(i *api.SeedInfo) { i.Phase, i.Key.Parts[PartImage] = SeedReady, "sha256:another" })
	foresee("another image", "ns", "c1", "")
}

// claimByKey asks as a shim does that has not looked up the seed.
func claimByKey(t *testing.T, p *Pool, who claimant, s *specs.Spec) (*api.ClaimResponse, error) {
	t.Helper()
	sv := &service{pool: p}
	got, err := sv.Claim(t.Context(), &api.ClaimRequest{
		Namespace: who.namespace, Id: who.container, Key: keyOf(t, s), Upperdir: who.upperdir, ShimPid: who.shimPID,
	})
	return got, errgrpc.ToNative(err)
}

func TestAClaimByKeyGivesTheSeedThatFits(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	another := spec()
	another.Process.Args = []string{"another"}
	for what, refused := range map[string]struct {
		who    claimant
		spec   *specs.Spec
		reason Reason
	}{
		"another command":   {b.container("ns", "c2"), another, ReasonKeyDiffers},
		"another namespace": {b.container("elsewhere", "c3"), spec(), ReasonNoSeed},
	} {
		_, err := claimByKey(t, p, refused.who, refused.spec)
		if reason, _ := ReasonOf(err); reason != refused.reason || !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if calls := b.rootfs.calls(); len(calls) != 0 {
		t.Errorf("a snapshot was touched: %v", calls)
	}
	who := b.container("ns", "c1")
	got, err := claimByKey(t, p, who, spec())
	if err != nil {
		t.Fatal(err)
	}
	if got.Seed.GetName() != "shop" || got.Instance.GetSeed() != s.id {
		t.Errorf("seed %v, instance %v", got.Seed, got.Instance)
	}
	if err := p.bound(p.instance(got.Instance.Id)); err != nil {
		t.Error(err)
	}
}
