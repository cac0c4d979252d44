package seedpool

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// sleeperOf makes the image of a spare, as if it slept: a delta against its seed's.
func (b *bed) sleeperOf(s *seed) (*instance, seedDir) {
	b.t.Helper()
	b.fill(s, 1)
	i := s.ready[0]
	d := seedDir(b.pool.paths.SleepDir(i.id))
	if err := errors.Join(os.MkdirAll(string(d), 0o700), d.write(fileSpec, []byte("{}"))); err != nil {
		b.t.Fatal(err)
	}
	base := b.pool.linkBase(b.t.Context(), i, string(d))
	if base == "" {
		b.t.Fatal("the seed's memory is not linked")
	}
	if err := errors.Join(writeImages(d.path("images")), os.Rename(base, d.path("images/"+parentName)), b.pool.sealSleeper(i)); err != nil {
		b.t.Fatal(err)
	}
	return i, d
}

func TestSeedWithWhichASleeperSharesItsMemoryIsNotReadAgain(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	right := func(when string) {
		t.Helper()
		known, err := p.store.checked(s.id)
		if identity, idErr := s.dir.identity(); err != nil || idErr != nil || known != identity {
			t.Errorf("%s the seed has to be read again, %v %v", when, err, idErr)
		}
	}
	i, d := b.sleeperOf(s)
	right("with its memory linked")
	if !p.sameAsSeeds(i)(inParent + "pages-1.img") {
		t.Error("the seed's memory has to be read again at each wake")
	}
	if err := p.removeImage(i); err != nil {
		t.Error(err)
	}
	right("with its memory let go")
	if _, err := os.Lstat(string(d)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the image is there, %v", err)
	}
	damage(t, s.dir.path("images/pages-1.img"), flipBit)
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		t.Fatal(err)
	}
	if base := p.linkBase(t.Context(), i, string(d)); base != "" || s.meta.Info.Phase != SeedBad {
		t.Errorf("%q is made of a damaged seed, which is %s", base, s.meta.Info.Phase)
	}
	if left := names(t, string(d)); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestDamagedImageOfASleeperIsFoundBeforeItIsRead(t *testing.T) {
	for name, c := range map[string]struct {
		file   string
		memory bool
		do     func(t *testing.T, file string)
	}{
		"memory":          {"images/pages-1.img", true, func(t *testing.T, file string) { damage(t, file, flipBit) }},
		"seed's memory":   {"images/parent/pages-1.img", true, func(t *testing.T, file string) { damage(t, file, flipBit) }},
		"registers":       {"images/core-1.img", false, func(t *testing.T, file string) { damage(t, file, flipBit) }},
		"mounts":          {"spec.json", false, func(t *testing.T, file string) { damage(t, file, flipBit) }},
		"no memory":       {"images/parent/pages-1.img", false, func(t *testing.T, file string) { remove(t, file) }},
		"something added": {"images/parent/pages-2.img", false, func(t *testing.T, file string) { write(t, file, "") }},
		"no sums":         {"sums", false, func(t *testing.T, file string) { remove(t, file) }},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			p := b.recovered()
			i, d := b.sleeperOf(b.seed("ns", "shop", keyOf(t, spec())))
			if err := errors.Join(p.checkSleeper(i, false), p.checkSleeper(i, true)); err != nil {
				t.Fatal(err)
			}
			c.do(t, d.path(c.file))
			err := p.checkSleeper(i, c.memory)
			if reason, _ := ReasonOf(err); reason != ReasonImageDamaged || !strings.Contains(err.Error(), filepath.Base(c.file)) {
				t.Errorf("%v", err)
			}
		})
	}
}
