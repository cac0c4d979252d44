package pages

import (
	"bytes"
	"testing"
)

// benchPages is the image of a large application: 128 MiB.
const benchPages = 128 << 20 / PageSize

func BenchmarkPut(b *testing.B) {
	data := file(numbers(1, benchPages)...)
	s := newBed(b)
	b.SetBytes(int64(len(data)))
	for n := 0; b.Loop(); n++ {
		_, err := s.Put(s.ctx, image(n), Source{"pages", bytes.NewReader(data)})
		must(b, err)
		b.StopTimer()
		must(b, s.Remove(s.ctx, image(n)))
		b.StartTimer()
	}
}

func BenchmarkPutKnown(b *testing.B) {
	data := file(numbers(1, benchPages)...)
	s := newBed(b)
	_, err := s.Put(s.ctx, image(0), Source{"pages", bytes.NewReader(data)})
	must(b, err)
	b.SetBytes(int64(len(data)))
	for n := 1; b.Loop(); n++ {
		_, err := s.Put(s.ctx, image(n), Source{"pages", bytes.NewReader(data)})
		must(b, err)
	}
}

func BenchmarkFill(b *testing.B) {
	data := file(numbers(1, benchPages)...)
	s := newBed(b)
	_, err := s.Put(s.ctx, image(0), Source{"pages", bytes.NewReader(data)})
	must(b, err)
	to := make(memory, len(data))
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		i, err := s.Image(image(0))
		must(b, err)
		must(b, i.Fill(s.ctx, "pages", to, Extent{0, benchPages}))
		must(b, i.Close())
	}
	if !bytes.Equal(to, data) {
		b.Fatal("wrong pages")
	}
}
