package pages

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/containerd/errdefs"
)

func TestImageReadsBackAsItWasPut(t *testing.T) {
	b := newBed(t)
	pages := append(append(numbers(1, 300), 0, 0, 7, 7, 0, 8), numbers(301, 310)...)
	stats := b.put(image(1), pages...)
	want(t, "pages", stats.Pages, uint64(len(pages)))
	want(t, "zeros", stats.Zeros, 3)
	want(t, "known", stats.Known, 3)
	want(t, "stored", stats.Stored, 310)
	b.has(image(1), pages...)
	b.put(image(2))
	b.has(image(2))
	b.reopen()
	b.has(image(1), pages...)
	b.clean()
}

func TestImageHasManyFiles(t *testing.T) {
	b := newBed(t)
	stats, err := b.Put(b.ctx, image(1),
		Source{"pages-1.img", bytes.NewReader(file(numbers(1, 100)...))}, Source{"pages-2.img", bytes.NewReader(file(numbers(50, 150)...))})
	must(t, err)
	want(t, "stored", stats.Stored, 150)
	for name, pages := range map[string][]int{"pages-1.img": numbers(1, 100), "pages-2.img": numbers(50, 150)} {
		data, err := get(b.Store, b.ctx, image(1), name)
		must(t, err)
		want(t, name, bytes.Equal(data, file(pages...)), true)
	}
	// What two files of one image share, no other image has.
	want(t, "unique", b.usage(image(1)).Unique, 150)
	_, err = get(b.Store, b.ctx, image(1), "pages-3.img")
	want(t, "no such file", errdefs.IsNotFound(err), true)
}

func TestImagesOfATenantSharePages(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 100)...)
	stats := b.put(image(2), append(numbers(51, 150), 0)...)
	want(t, "stored", stats.Stored, 50)
	u := b.usage(image(2))
	want(t, "usage", u.Pages*1000000+u.Zeros*100000+u.Unique*100+u.Shared, 101*1000000+100000+50*100+50)
	if u.UniqueBytes == 0 || u.SharedBytes == 0 || u.UniqueBytes+u.SharedBytes > 100*PageSize*3/4 {
		t.Errorf("%d and %d bytes for 100 pages of which half is noise", u.UniqueBytes, u.SharedBytes)
	}
	other := ID{"other", "image-1"}
	want(t, "stored for another tenant", b.put(other, numbers(1, 100)...).Stored, 100)
	b.has(image(1), numbers(1, 100)...)
	b.has(other, numbers(1, 100)...)
	total := b.total()
	want(t, "images", total.Images, 3)
	want(t, "stored", total.Stored, 250)
	want(t, "pages", total.Pages, 301)
	want(t, "bytes", total.Bytes, sizes(t, b.files()))
	b.clean()
}

func sizes(t testing.TB, files []string) (sum uint64) {
	t.Helper()
	for _, name := range files {
		info, err := os.Stat(name)
		must(t, err)
		sum += uint64(info.Size())
	}
	return sum
}

func TestFramesAreReadInTheOrderOfNeedAndOnce(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 10*framePages)...)
	i, err := b.Image(image(1))
	must(t, err)
	defer i.Close()
	list, err := i.plan(i.Files[0].Pages, []Extent{{5*framePages + 3, 2}, {framePages - 1, 2}, {0, 10 * framePages}})
	must(t, err)
	want(t, "frames", len(list), 10)
	want(t, "first", slices.Equal(list[0].pages[:3], []int{5*framePages + 3, 5*framePages + 4, 5 * framePages}), true)
	want(t, "second", list[1].pages[0], framePages-1)
	want(t, "third", list[2].pages[0], framePages)

	data := make(memory, 10*framePages*PageSize)
	must(t, i.Fill(b.ctx, "pages", data, Extent{70, 3}))
	at := 70 * PageSize
	want(t, "wanted pages", bytes.Equal(data[at:at+3*PageSize], file(71, 72, 73)), true)
	want(t, "others", bytes.Count(data, []byte{0}) >= len(data)-3*PageSize, true)
	for _, e := range []Extent{{-1, 2}, {0, 10*framePages + 1}, {10 * framePages, 1}, {3, -1}} {
		want(t, "out of range", errdefs.IsOutOfRange(i.Fill(b.ctx, "pages", data, e)), true)
	}
}

func TestRemovedImageCanBeReadToItsEnd(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 200)...)
	i, err := b.Image(image(1))
	must(t, err)
	defer i.Close()
	must(t, b.Remove(b.ctx, image(1)))
	want(t, "files", len(b.files()), 0)
	data := make(memory, 200*PageSize)
	must(t, i.Fill(b.ctx, "pages", data, Extent{0, 200}))
	want(t, "pages", bytes.Equal(data, file(numbers(1, 200)...)), true)
	_, err = b.Image(image(1))
	want(t, "open", errdefs.IsNotFound(err), true)
	must(t, b.Remove(b.ctx, image(1)))
}

func TestSpaceOfRemovedImagesIsFreed(t *testing.T) {
	b := newBed(t)
	b.put(image(1), numbers(1, 400)...)
	b.put(image(2), numbers(301, 450)...)
	before := b.total()
	must(t, b.Remove(b.ctx, image(1)))
	want(t, "dead", b.total().Dead, 300)
	b.has(image(2), numbers(301, 450)...)
	done, err := b.Collect(b.ctx)
	must(t, err)
	want(t, "packs", done.Packs, 1)
	after := b.total()
	want(t, "dead", after.Dead, 0)
	want(t, "stored", after.Stored, 150)
	want(t, "bytes", after.Bytes, sizes(t, b.files()))
	if after.Bytes > before.Bytes/2 || done.Freed == 0 {
		t.Errorf("%d bytes of %d are left, %d freed", after.Bytes, before.Bytes, done.Freed)
	}
	b.has(image(2), numbers(301, 450)...)
	b.clean()
	done, err = b.Collect(b.ctx)
	must(t, err)
	want(t, "packs of the second time", done.Packs, 0)
	must(t, b.Remove(b.ctx, image(2)))
	want(t, "files", len(b.files()), 0)
	want(t, "bytes", b.total(), Total{})
	b.clean()
}

func TestImageBeyondTheQuotaLeavesNothing(t *testing.T) {
	b := &bed{t: t, ctx: t.Context(), quota: 1 << 20}
	b.open(t.TempDir())
	t.Cleanup(func() { must(t, b.Close()) })
	b.put(image(1), numbers(1, 300)...)
	before := b.files()
	_, err := b.Put(b.ctx, image(2), Source{"pages", bytes.NewReader(file(numbers(301, 900)...))})
	if _, quota := errors.AsType[*QuotaError](err); !quota || !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "1048576") {
		t.Fatalf("error %v", err)
	}
	want(t, "files", slices.Equal(b.files(), before), true)
	b.has(image(1), numbers(1, 300)...)
	b.clean()
	must(t, b.Remove(b.ctx, image(1)))
	// Known pages take no room.
	b.put(image(2), numbers(1, 400)...)
	b.put(image(3), numbers(1, 400)...)
	b.clean()
}

func TestWhatCannotBeStoredLeavesNothing(t *testing.T) {
	b := newBed(t)
	b.put(image(1), 1)
	before := b.files()
	cancelled, cancel := context.WithCancel(b.ctx)
	cancel()
	broken := errors.New("broken")
	for _, c := range []struct {
		name string
		ctx  context.Context
		id   ID
		data io.Reader
		want error
	}{
		{"pages", b.ctx, image(1), bytes.NewReader(file(2)), errdefs.ErrAlreadyExists},
		{"pages", b.ctx, image(2), bytes.NewReader(file(2)[1:]), errdefs.ErrInvalidArgument},
		{"pages", b.ctx, image(2), io.MultiReader(bytes.NewReader(file(numbers(2, 900)...)), failing{broken}), broken},
		{"pages", cancelled, image(2), bytes.NewReader(file(2)), context.Canceled},
		{"", b.ctx, image(2), bytes.NewReader(file(2)), errdefs.ErrInvalidArgument},
		{"pages", b.ctx, ID{"", "image"}, bytes.NewReader(file(2)), errdefs.ErrInvalidArgument},
		{"pages", b.ctx, ID{"a\x00b", "image"}, bytes.NewReader(file(2)), errdefs.ErrInvalidArgument},
		{"pages", b.ctx, ID{"default", strings.Repeat("n", maxName+1)}, bytes.NewReader(file(2)), errdefs.ErrInvalidArgument},
	} {
		_, err := b.Put(c.ctx, c.id, Source{c.name, c.data})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: error %v, want %v", c.id, err, c.want)
		}
		want(t, "files", slices.Equal(b.files(), before), true)
	}
	b.clean()
}

type failing struct{ error }

func (f failing) Read([]byte) (int, error) { return 0, f.error }

func TestImageLargerThanAPackIsSplit(t *testing.T) {
	b := newBed(t)
	pages := numbers(1, maxPack/PageSize*2) // half of each is noise
	b.put(image(1), pages...)
	want(t, "packs and manifest", len(b.files()), 3)
	b.has(image(1), pages...)
}

func TestReadersAndWriterDoNotMeet(t *testing.T) {
	b := newBed(t)
	b.put(image(0), numbers(1, 200)...)
	all := file(numbers(1, 200)...)
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 3 {
		readers.Go(func() {
			for {
				data, err := get(b.Store, b.ctx, image(0), "pages")
				if err != nil || !bytes.Equal(data, all) {
					t.Errorf("read while others write: %v", err)
					return
				}
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for n := 1; n < 20; n++ {
		// Each holds pages of image 0 and more of its own: removed, it leaves a pack that is mostly dead.
		b.put(image(n), numbers(n*10, n*10+500)...)
		must(t, b.Remove(b.ctx, image(n)))
		_, err := b.Collect(b.ctx)
		must(t, err)
	}
	close(stop)
	readers.Wait()
	b.clean()
}
