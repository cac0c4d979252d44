package seedpool

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// reserveFor asks as a shim does that knows the container's spec and not yet its snapshot.
func reserveFor(t *testing.T, p *Pool, who claimant, s *specs.Spec) (*api.ReserveResponse, error) {
	t.Helper()
	sv := &service{pool: p}
	got, err := sv.Reserve(t.Context(), &api.ReserveRequest{Namespace: who.namespace, Id: who.container, Key: keyOf(t, s), ShimPid: who.shimPID})
	return got, errgrpc.ToNative(err)
}

// complete asks for what was reserved, for the container's snapshot.
func complete(t *testing.T, p *Pool, who claimant, instance string) (*api.Instance, error) {
	t.Helper()
	sv := &service{pool: p}
	got, err := sv.Claim(t.Context(), &api.ClaimRequest{
		Namespace: who.namespace, Id: who.container, Upperdir: who.upperdir, ShimPid: who.shimPID, Reserved: instance,
	})
	return got.GetInstance(), errgrpc.ToNative(err)
}

func TestAReservedSpareBecomesItsContainersAndNobodyElses(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who, other := b.container("ns", "c1"), b.container("ns", "c2")
	p.mu.Lock()
	s.want = 0
	p.mu.Unlock()
	got, err := reserveFor(t, p, who, spec())
	if err != nil {
		t.Fatal(err)
	}
	if got.Seed.Name != "shop" {
		t.Errorf("it is of seed %s", got.Seed.Name)
	}
	if _, err := p.claim(t.Context(), s.id, other, false); !errdefs.IsNotFound(err) {
		t.Errorf("another container's claim: %v", err)
	}
	if _, err := complete(t, p, other, got.Instance.Id); err == nil {
		t.Error("another container has completed it")
	}
	if calls := b.rootfs.calls(); len(calls) != 0 {
		t.Errorf("a snapshot was touched: %v", calls)
	}
	inst, err := complete(t, p, who, got.Instance.Id)
	if err != nil {
		t.Fatal(err)
	}
	if inst.Id != got.Instance.Id || !strings.HasSuffix(b.rootfs.seedOf(who.upperdir), inst.Id) {
		t.Errorf("instance %s, the files of %q", inst.Id, b.rootfs.seedOf(who.upperdir))
	}
	if _, err := complete(t, p, who, got.Instance.Id); err == nil {
		t.Error("it was completed twice")
	}
	if err := p.bound(p.instance(inst.Id)); err != nil {
		t.Error(err)
	}
}

func TestAReservationForAnotherImageIsNotCompleted(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	got, err := reserveFor(t, p, who, spec())
	if err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	s.meta.Info.Key.Parts[PartImage] = "sha256:another"
	p.mu.Unlock()
	if _, err := complete(t, p, who, got.Instance.Id); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("got %v", err)
	}
	if calls := b.rootfs.calls(); len(calls) != 0 {
		t.Errorf("its snapshot was touched: %v", calls)
	}
	sv := &service{pool: p}
	if _, err := sv.Discard(t.Context(), discardOf(got.Instance.Id)); err != nil {
		t.Error(err)
	}
	b.ready("shop", 1)
	b.nothingLeft()
}

func TestNothingIsReservedWithoutOneSeedThatFits(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	refused := func(what string, who claimant, asked *specs.Spec) {
		t.Helper()
		if _, err := reserveFor(t, p, who, asked); !errdefs.IsNotFound(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	another := spec()
	another.Process.Args = []string{"another"}
	refused("another command", b.container("ns", "c1"), another)
	refused("another namespace", b.container("elsewhere", "c1"), spec())
	phase := func(to string) {
		p.mu.Lock()
		defer p.mu.Unlock()
		s.meta.Info.Phase = to
	}
	phase(seedStale)
	refused("a stale seed", b.container("ns", "c1"), spec())
	phase(seedReady)
	b.seed("ns", "twin", keyOf(t, spec()))
	refused("two seeds", b.container("ns", "c1"), spec())
	b.ready("shop", 1)
}

func TestAReservationEndsWithItsShim(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	who := b.container("ns", "c1")
	who.shimPID = 1<<22 - 1
	got, err := reserveFor(t, p, who, spec())
	if err != nil {
		t.Fatal(err)
	}
	b.close()
	p = b.recovered() // it is known to the next sproutd, too
	b.eventually("its end", func() error {
		if p.instance(got.Instance.Id) != nil {
			return errors.New("it is still there")
		}
		return nil
	})
	if calls := b.rootfs.calls(); slices.Contains(calls, "Adopt") {
		t.Errorf("the container's snapshot was touched: %v", calls)
	}
}
