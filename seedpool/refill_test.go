package seedpool

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func discardOf(instance string) *api.DiscardRequest {
	return &api.DiscardRequest{Instance: instance, Reason: string(ReasonBindFailed)}
}

func TestAPoolIsFilledAndDrainedToWhatIsWanted(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	for _, want := range []uint32{3, 1, 2, 0} {
		b.fill(s, want)
		b.eventually("the others to go", func() error {
			if n := len(b.processes()); n != int(want) {
				return fmt.Errorf("%d processes", n)
			}
			if left := b.leftovers(); len(left) > 0 {
				return errors.New(strings.Join(left, ", "))
			}
			return nil
		})
	}
}

func TestASpareThatCannotBeMadeIsTriedAgainLaterAndTheErrorKept(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	b.breakKeeper(s, "criu says no")
	if err := p.setPool(t.Context(), s, spareBounds{min: 2, max: 2}); err != nil {
		t.Fatal(err)
	}
	sv := &service{pool: p}
	b.eventually("two failures", func() error {
		list, err := sv.ListPools(t.Context(), &api.ListPoolsRequest{Namespace: "ns"})
		if err != nil {
			return err
		}
		if one := list.Pools[0]; one.FailedTotal < 2 || !strings.Contains(one.LastError, "criu says no") || one.Ready != 1 {
			return fmt.Errorf("%v", one)
		}
		return nil
	})
	p.mu.Lock()
	failures, pause := s.failures, time.Until(s.retryAt)
	p.mu.Unlock()
	if failures < 2 || pause <= 0 || pause > 5*time.Second {
		t.Errorf("after %d failures the pause is %s", failures, pause)
	}
	b.nothingLeft()
	b.breakKeeper(s, "")
	if err := p.setPool(t.Context(), s, spareBounds{min: 2, max: 2}); err != nil { // asking again does not wait for the pause
		t.Fatal(err)
	}
	b.ready("shop", 2)
	if p.mu.Lock(); s.lastError != "" {
		t.Errorf("the error outlived a success: %s", s.lastError)
	}
	p.mu.Unlock()
}

func TestPausesDoubleUpToTheLongest(t *testing.T) {
	for failures, want := range map[int]time.Duration{1: time.Second, 2: 2 * time.Second, 4: 8 * time.Second, 7: time.Minute, 1000: time.Minute} {
		if got := backoff(failures, time.Second, time.Minute); got != want {
			t.Errorf("after %d failures %s, want %s", failures, got, want)
		}
	}
}

func TestTheEmptiestPoolIsFilledFirstAndNoMoreAreMadeAtOnceThanAllowed(t *testing.T) {
	p := newPool(Default(), nil)
	p.config.RefillParallel, p.config.Pool.MaxAge = 2, 0
	full, empty := &seed{id: "full", bounds: spareBounds{min: 4, max: 4}, ready: make([]*instance, 3)}, &seed{id: "empty", bounds: spareBounds{min: 2, max: 2}}
	failed := &seed{id: "failed", bounds: spareBounds{min: 2, max: 2}, retryAt: time.Unix(100, 0)}
	bad := &seed{id: "bad", bounds: spareBounds{min: 2, max: 2}}
	for _, s := range []*seed{full, empty, failed, bad} {
		s.meta = &api.SeedMeta{Info: &api.SeedInfo{Phase: SeedReady}}
		p.seeds[s.id] = s
	}
	bad.meta.Info.Phase = SeedBad
	now := time.Unix(90, 0)
	for n, want := range []string{"empty", "empty", ""} {
		s, _ := p.nextToFill(now)
		if got := ""; s != nil {
			if got = s.id; got != want {
				t.Errorf("%d: %s, want %s", n, got, want)
			}
		} else if want != "" {
			t.Errorf("%d: none, want %s", n, want)
		}
	}
	empty.making, empty.bounds = 0, spareBounds{}
	full.bounds = spareBounds{min: 3, max: 3}
	if s, pause := p.nextToFill(now); s != nil || pause != 10*time.Second {
		t.Errorf("%v after %s, want none before the failed one's pause is over", s, pause)
	}
}

func TestADamagedSeedIsMarkedBadBeforeAnyProcessReadsIt(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, d seedDir)
		file string
	}{
		"flipped bit": {func(t *testing.T, d seedDir) { damage(t, d.path("images/pages-1.img"), flipBit) }, "pages-1.img"},
		"truncated":   {func(t *testing.T, d seedDir) { damage(t, d.path("images/pages-1.img"), halve) }, "pages-1.img"},
		"missing":     {func(t *testing.T, d seedDir) { remove(t, d.path("images/core-1.img")) }, "core-1.img"},
		"gone":        {func(t *testing.T, d seedDir) { remove(t, string(d)) }, "spec.json"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			p := b.recovered()
			s := b.seed("ns", "shop", keyOf(t, spec()))
			b.fill(s, 1)
			c.do(t, s.dir)
			who := b.container("ns", "c1")
			_, err := p.restoreFor(t.Context(), s.id, who, b.place("c1"))
			if reason, _ := ReasonOf(err); reason != ReasonSeedBad || !errorSays(err, c.file) {
				t.Fatalf("restore: %v", err)
			}
			if found := p.lookup("ns", "sha256:image", keyOf(t, spec())); found.Reason != string(ReasonSeedBad) || !strings.Contains(found.Detail, c.file) {
				t.Errorf("lookup: %v", found)
			}
			b.eventually("its spares to go", func() error {
				if n := len(b.processes()); n > 0 {
					return fmt.Errorf("%d processes", n)
				}
				if left := b.leftovers(); len(left) > 0 {
					return errors.New(strings.Join(left, ", "))
				}
				return nil
			})
		})
	}
}

func TestASeedThatWasOnlyTouchedIsReadAgainAndServes(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	before, err := p.store.checked(s.id)
	if err != nil {
		t.Fatal(err)
	}
	damage(t, s.dir.path("images/pages-1.img"), func(data []byte) []byte { return data })
	if _, err := p.load(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if after, err := p.store.checked(s.id); err != nil || after == before {
		t.Errorf("identity %q as before, %v", after, err)
	}
}

func TestVerifyNamesTheDamageAndMarksTheSeedBad(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	sv := &service{pool: p}
	ref := &api.SeedRef{Namespace: "ns", Name: "shop"}
	if r, err := sv.VerifySeed(t.Context(), ref); err != nil || len(r.Problems) != 0 || r.Files != 5 {
		t.Fatalf("%v %v", r, err)
	}
	damage(t, s.dir.path("images/pages-1.img"), flipBit)
	if r, err := sv.VerifySeed(t.Context(), ref); err != nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "pages-1.img") {
		t.Errorf("%v %v", r, err)
	}
	if info, err := sv.InspectSeed(t.Context(), ref); err != nil || info.Phase != SeedBad || !strings.Contains(info.Reason, "pages-1.img") {
		t.Errorf("%v %v", info, err)
	}
}

func TestRemovingASeedRemovesItsSparesFilesLayerAndKeeper(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	sv := &service{pool: p}
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	if _, err := sv.RemoveSeed(t.Context(), &api.SeedRef{Namespace: "ns", Name: "shop"}); err != nil {
		t.Fatal(err)
	}
	b.eventually("all of it to go", func() error {
		if left := append(b.leftovers(), b.strays()...); len(left) > 0 {
			return errors.New(strings.Join(left, ", "))
		}
		if files := names(t, p.paths.KeepersDir()); len(files) > 0 {
			return fmt.Errorf("keeper's files %v", files)
		}
		return nil
	})
	if _, err := sv.RemoveSeed(t.Context(), &api.SeedRef{Namespace: "ns", Name: "shop"}); err == nil || !strings.Contains(err.Error(), `"shop"`) {
		t.Errorf("removed twice: %v", err)
	}
}

func TestTheKeeperOfARemovedSeedLivesAsLongAsItsContainers(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	inst, err := p.claim(t.Context(), s.id, b.container("ns", "c1"), false)
	if err == nil {
		err = errors.Join(p.bound(p.instance(inst.Id)), p.removeSeed(t.Context(), s))
	}
	if err != nil {
		t.Fatal(err)
	}
	keeper := b.keeperPID(s)
	killPID(t, int(inst.Pid))
	b.eventually("the keeper to end with its last container", func() error {
		if files := names(t, p.paths.KeepersDir()); slicesHasSuffix(files, ".pid") {
			return fmt.Errorf("keeper %d: %v", keeper, files)
		}
		return nil
	})
}

func slicesHasSuffix(list []string, suffix string) bool {
	for _, s := range list {
		if filepath.Ext(s) == suffix {
			return true
		}
	}
	return false
}

func TestASeedThatIsBakedAgainReplacesTheOldOneWithItsPool(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	old := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(old, 2)
	renewed := b.seed("ns", "shop", keyOf(t, spec()))
	b.ready("shop", 2)
	if one, err := p.find("ns", "shop"); err != nil || one != renewed {
		t.Errorf("the seed is %v, %v", one, err)
	}
	b.nothingLeft()
}
