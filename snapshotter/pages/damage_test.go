package pages

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

// flip changes one bit of a file.
func flip(t testing.TB, name string, bit int64) {
	t.Helper()
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	must(t, err)
	defer f.Close()
	one := make([]byte, 1)
	_, err = f.ReadAt(one, bit/8)
	must(t, err)
	one[0] ^= 1 << (bit % 8)
	_, err = f.WriteAt(one, bit/8)
	must(t, err)
}

// only is the one file of the store with a suffix.
func (b *bed) only(suffix string) string {
	b.t.Helper()
	found := ""
	for _, name := range b.files() {
		if strings.HasSuffix(name, suffix) {
			if found != "" {
				b.t.Fatalf("both %s and %s", found, name)
			}
			found = name
		}
	}
	return found
}

func bits(t testing.TB, name string) int64 {
	t.Helper()
	info, err := os.Stat(name)
	must(t, err)
	return info.Size() * 8
}

func TestFlippedBitIsFoundBeforeAByteIsGivenOut(t *testing.T) {
	for _, suffix := range []string{".pack", ".manifest"} {
		t.Run(suffix, func(t *testing.T) {
			b := newBed(t)
			b.put(image(1), numbers(1, 100)...)
			name := b.only(suffix)
			random := rand.New(rand.NewPCG(3, 4))
			for range 300 {
				bit := random.Int64N(bits(t, name))
				flip(t, name, bit)
				data, err := get(b.Store, b.ctx, image(1), "pages")
				e, damage := errors.AsType[*DamageError](err)
				if !damage || !errdefs.IsDataLoss(err) || !strings.HasSuffix(e.File, suffix) {
					t.Fatalf("bit %d: error %v", bit, err)
				}
				for n := range len(data) / PageSize {
					if have := data[n*PageSize : (n+1)*PageSize]; !bytes.Equal(have, page(0)) && !bytes.Equal(have, page(n+1)) {
						t.Fatalf("bit %d: page %d is wrong", bit, n)
					}
				}
				problems, err := b.Verify(b.ctx, image(1))
				must(t, err)
				if len(problems) == 0 {
					t.Fatalf("bit %d: fsck finds nothing", bit)
				}
				flip(t, name, bit)
			}
			b.has(image(1), numbers(1, 100)...)
			b.clean()
		})
	}
}

func TestErrorNamesPackOffsetAndPage(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 100)...)
	i, err := b.Image(image(1))
	must(t, err)
	at := i.places[i.Files[0].Pages[80]]
	must(t, i.Close())
	flip(t, b.only(".pack"), int64(at.offset+100)*8)
	_, err = get(b.Store, b.ctx, image(1), "pages")
	e, _ := errors.AsType[*DamageError](err)
	if e == nil || e.Offset != at.offset || e.File != packName(at.pack) || e.Page != "page 64 of pages" {
		t.Errorf("error %v", err)
	}
}

// TestFlippedBitInTheIndexGivesNoWrongPage: bbolt has no sums, so some bits (of pages that are not used, of counters) change nothing that is read.
func TestFlippedBitInTheIndexGivesNoWrongPage(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 300)...)
	b.put(image(2), numbers(200, 500)...)
	must(t, b.Close())
	name := b.path(indexName)
	good, err := os.ReadFile(name)
	must(t, err)
	random := rand.New(rand.NewPCG(5, 6))
	files, found := b.files(), 0
	for range 300 {
		bit := random.Int64N(int64(len(good)) * 8)
		flip(t, name, bit)
		s, err := Open(b.dir, Options{})
		if err == nil {
			var data []byte
			if data, err = get(s, b.ctx, image(1), "pages"); err == nil && !bytes.Equal(data, file(numbers(1, 300)...)) {
				t.Fatalf("bit %d: wrong pages", bit)
			}
			if problems, verr := s.VerifyAll(b.ctx); err == nil && (verr != nil || len(problems) > 0) {
				err = errors.Join(verr, errors.Join(problems...))
			}
			must(t, s.Close())
		}
		damaged := os.Remove(name + suffixDamaged)
		if err != nil || damaged == nil {
			found++
		}
		// A new file: what bbolt panics over it leaves open and locked.
		must(t, errors.Join(remove(name), os.WriteFile(name, good, 0o600)))
		if !slices.Equal(b.files(), files) {
			t.Fatalf("bit %d: Open has removed files", bit)
		}
	}
	if found < 15 {
		t.Errorf("%d of 300 bits were found", found)
	}
	b.open(b.dir)
	b.has(image(1), numbers(1, 300)...)
	b.clean()
}

func TestIndexThatIsDamagedOrLostIsMadeAgain(t *testing.T) {
	for name, spoil := range map[string]func(index string) error{
		"lost": os.Remove,
		"cut":  func(index string) error { return os.Truncate(index, 5000) },
		"no index": func(index string) error {
			return os.WriteFile(index, bytes.Repeat([]byte("x"), 1<<16), 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.put(image(1), numbers(1, 300)...)
			b.put(image(2), numbers(200, 500)...)
			b.put(image(3), numbers(400, 600)...)
			b.put(ID{"other", "image"}, numbers(1, 70)...)
			must(t, b.Remove(b.ctx, image(2)))
			before := b.total()
			must(t, b.Close())
			must(t, spoil(b.path(indexName)))
			b.open(b.dir)
			b.has(image(1), numbers(1, 300)...)
			b.has(image(3), numbers(400, 600)...)
			b.has(ID{"other", "image"}, numbers(1, 70)...)
			want(t, "totals", b.total(), before)
			b.clean()
			b.put(image(2), numbers(200, 500)...)
			b.reopen()
			b.has(image(2), numbers(200, 500)...)
			b.clean()
		})
	}
}

func TestWhatIsMissingOrCutIsDamage(t *testing.T) {
	for _, suffix := range []string{".pack", ".manifest"} {
		b := newBed(t)
		b.put(image(1), numbers(1, 100)...)
		name := b.only(suffix)
		must(t, os.Truncate(name, bits(t, name)/8-1))
		if _, err := get(b.Store, b.ctx, image(1), "pages"); !errdefs.IsDataLoss(err) {
			t.Errorf("%s was cut: error %v", suffix, err)
		}
		must(t, os.Remove(name))
		if _, err := get(b.Store, b.ctx, image(1), "pages"); !errdefs.IsDataLoss(err) {
			t.Errorf("%s is missing: error %v", suffix, err)
		}
		b.reopen()
		problems, err := b.VerifyAll(b.ctx)
		must(t, err)
		want(t, "problems", len(problems) > 0, true)
		// It can still be removed, and its pages go with the next collection.
		must(t, b.Remove(b.ctx, image(1)))
		_, err = b.Collect(b.ctx)
		must(t, err)
		want(t, "files", len(b.files()), 0)
		b.clean()
	}
}

func TestPacksThatWereExchangedAreDamage(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 100)...)
	one := b.only(".pack")
	b.put(image(2), numbers(101, 200)...)
	var two string
	for _, name := range b.files() {
		if strings.HasSuffix(name, ".pack") && name != one {
			two = name
		}
	}
	must(t, os.Rename(one, one+"x"))
	must(t, os.Rename(two, one))
	must(t, os.Rename(one+"x", two))
	if _, err := get(b.Store, b.ctx, image(1), "pages"); !errdefs.IsDataLoss(err) {
		t.Errorf("error %v", err)
	}
}

func TestPutStoresDamagedPagesAnewForAll(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 200)...)
	name := b.only(".pack")
	flip(t, name, bits(t, name)/2)
	_, err := get(b.Store, b.ctx, image(1), "pages")
	want(t, "damaged", errdefs.IsDataLoss(err), true)
	stats := b.put(image(2), numbers(1, 200)...)
	want(t, "stored", stats.Stored, framePages)
	b.has(image(2), numbers(1, 200)...)
	b.has(image(1), numbers(1, 200)...)
	b.clean()
	must(t, os.Remove(name))
	b.put(image(3), numbers(1, 200)...)
	b.has(image(1), numbers(1, 200)...)
}

func TestCollectLeavesDamagedPagesWhereTheyAre(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 1000)...)
	b.put(image(2), numbers(1, 200)...)
	b.put(image(3), numbers(65, 200)...)
	must(t, b.Remove(b.ctx, image(1)))
	flip(t, b.only(".pack"), 8*200) // in the first frame
	_, err := b.Collect(b.ctx)
	want(t, "damage", errdefs.IsDataLoss(err), true)
	b.has(image(3), numbers(65, 200)...)
	problems, err := b.Verify(b.ctx, image(2))
	must(t, err)
	want(t, "problems of the damaged image", len(problems), 1)
	must(t, b.Remove(b.ctx, image(2)))
	_, err = b.Collect(b.ctx)
	must(t, err)
	b.has(image(3), numbers(65, 200)...)
	b.clean()
}
