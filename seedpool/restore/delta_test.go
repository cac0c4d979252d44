package restore

import (
	_ "embed"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// sleeper knows what its memory is to hold.
//
//go:embed testdata/sleeper.py
var sleeper string

// subtract makes a delta of an image against a seed's.
func (b *bed) subtract(s, base *seed) *seed {
	b.t.Helper()
	links, delta := b.subdir("base"), *s
	delta.images = filepath.Join(b.subdir("delta"), "images")
	from := time.Now()
	if err := Link(base.images, links); err != nil {
		b.t.Fatal(err)
	}
	if err := Subtract(s.images, links, delta.images); err != nil {
		b.t.Fatal(err)
	}
	b.t.Logf("%d of %d bytes in %v", sizeOf(b.t, delta.images), sizeOf(b.t, s.images), time.Since(from))
	return &delta
}

// sizeOf is what the files of a directory take, the base of a delta apart.
func sizeOf(t *testing.T, dir string) (bytes int64) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*.img"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	return bytes
}

func TestDeltaIsTheMemoryOfItsImage(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t, "python3", "-c", sleeper)))
	t.Run("memory of its own", func(t *testing.T) { sleepOften(t, b, s, nil, 1, 1, 1) })
	t.Run("shared memory", func(t *testing.T) { sleepOften(t, b, s, b.heat(s), 2, 1) })
}

// sleepOften has an instance of the sleeper made, dumped and made again from a delta, and between that asked that often. The first one shares its seed's memory if that is hot.
func sleepOften(t *testing.T, b *bed, s *seed, h *Hot, asked ...int) {
	last := s
	for generation, times := range asked {
		p := b.prepare(last)
		if generation == 0 && h != nil {
			p.o.Memory = h.NewMemory()
			defer p.o.Memory.Close()
		}
		i, err := p.restore(t.Context(), b.criu)
		if err != nil {
			t.Fatal(report(err))
		}
		defer i.cgroup.Kill()
		for n := range times {
			if n > 0 {
				b.failToDump(i, s, p.o.Memory)
			}
			if said := tell(t, p); len(said) != 1 || said[0] != "done 0" {
				t.Errorf("generation %d: %s", generation, strings.Join(said, "\n"))
			}
		}
		if generation == len(asked)-1 {
			_ = i.cgroup.Kill()
		} else {
			last = b.redump(i, s, p.o.Memory)
		}
		if _, err := i.wait(); err != nil {
			t.Error(err)
		}
	}
}

// failToDump has an instance dumped almost to the end: it runs on, and its memory is served.
func (b *bed) failToDump(i *instance, s *seed, m *Memory) {
	b.t.Helper()
	images := b.subdir("images")
	if err := os.Mkdir(filepath.Join(images, "pages-1.img.new"), 0o700); err != nil {
		b.t.Fatal(err)
	}
	_, err := Dump(b.t.Context(), b.criu, DumpOptions{PID: i.pid, ImagesDir: images, WorkDir: b.subdir("work"), Spec: s.spec, Memory: m})
	if !errors.Is(err, os.ErrExist) {
		b.t.Errorf("dumped over another image: %v", err)
	}
	if err := errors.Join(checkRegistered(i.cgroup), m.Err()); err != nil {
		b.t.Error(err)
	}
}

// redump makes a delta of an instance against its seed.
func (b *bed) redump(i *instance, s *seed, m *Memory) *seed {
	b.t.Helper()
	next := &seed{images: b.subdir("images"), spec: s.spec, upper: s.upper}
	var err error
	next.Dumped, err = Dump(b.t.Context(), b.criu, DumpOptions{PID: i.pid, ImagesDir: next.images, WorkDir: b.subdir("work"), Spec: s.spec, Memory: m})
	if err != nil {
		b.t.Fatal(report(err))
	}
	delta := b.subtract(next, s)
	// It stands by itself.
	if err := os.RemoveAll(next.images); err != nil {
		b.t.Error(err)
	}
	return delta
}

func TestDeltaWhoseParentLacksAPageIsRefused(t *testing.T) {
	head := &pagemap.PagemapHead{PagesId: proto.Uint32(1)}
	run := func(address, pages uint64, flags uint32) *pagemap.PagemapEntry {
		return &pagemap.PagemapEntry{Vaddr: proto.Uint64(address), CompatNrPages: proto.Uint32(uint32(pages)), NrPages: proto.Uint64(pages), Flags: proto.Uint32(flags)}
	}
	for name, c := range map[string]struct {
		delta, parent []proto.Message
		bytes         int
		whole         bool
	}{
		"whole": {
			[]proto.Message{head, run(0x1000, 3, pageInParent), run(0x4000, 2, pagePresent), run(0x6000, 1, pageInParent)},
			[]proto.Message{head, run(0x1000, 1, pagePresent), run(0x2000, 6, pagePresent)},
			7 * pageSize, true,
		},
		"hole":        {[]proto.Message{head, run(0x1000, 3, pageInParent), run(0x4000, 2, pagePresent)}, []proto.Message{head, run(0x1000, 1, pagePresent), run(0x3000, 1, pagePresent)}, 2 * pageSize, false},
		"before":      {[]proto.Message{head, run(0x1000, 1, pageInParent), run(0x4000, 2, pagePresent)}, []proto.Message{head, run(0x2000, 1, pagePresent)}, pageSize, false},
		"behind":      {[]proto.Message{head, run(0x4000, 2, pagePresent), run(0x8000, 2, pageInParent)}, []proto.Message{head, run(0x8000, 1, pagePresent)}, pageSize, false},
		"grandparent": {[]proto.Message{head, run(0x1000, 1, pageInParent), run(0x4000, 2, pagePresent)}, []proto.Message{head, run(0x1000, 1, pageInParent)}, 0, false},
		"cut off":     {[]proto.Message{head, run(0x1000, 1, pageInParent), run(0x4000, 2, pagePresent)}, []proto.Message{head, run(0x1000, 1, pagePresent)}, 17, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := image(t)
			parent := filepath.Join(dir, parentDir)
			if err := errors.Join(
				os.Mkdir(parent, 0o700),
				os.WriteFile(filepath.Join(dir, "pagemap-1.img"), frame(t, "PAGEMAP", c.delta...), 0o600),
				os.WriteFile(filepath.Join(parent, "pagemap-1.img"), frame(t, "PAGEMAP", c.parent...), 0o600),
				os.WriteFile(filepath.Join(parent, "pages-1.img"), make([]byte, c.bytes), 0o600),
			); err != nil {
				t.Fatal(err)
			}
			if err := Check(dir); c.whole && err != nil || !c.whole && !errors.Is(err, ErrImage) {
				t.Error(err)
			}
			// Whoever knows of no parent does not take pages of one for pages that are not there.
			task := imageTask{files: [2]string{1: "pagemap-1.img"}}
			if err := task.readPagemap(dir); !errors.Is(err, ErrImage) {
				t.Errorf("it is read as if it were whole: %v", err)
			}
		})
	}
}
