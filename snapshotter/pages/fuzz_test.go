package pages

import (
	"bytes"
	"testing"
)

func FuzzFrame(f *testing.F) {
	c, err := newCodec()
	must(f, err)
	f.Add(c.frame([]Hash{{1}, {2}}, file(1, 2)))
	f.Add(c.frame([]Hash{{1}}, file(0)))
	f.Fuzz(func(t *testing.T, b []byte) {
		// The sum keeps nearly all of it out: it is made right for half of them.
		if len(b) > frameHead && b[len(b)-1]&1 == 0 {
			sum := frameSum(b)
			b[12], b[13], b[14], b[15] = byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum)
		}
		parsed, err := parseFrame(b)
		if err != nil {
			return
		}
		if len(parsed.hashes) == 0 || len(parsed.hashes) > framePages {
			t.Fatalf("%d pages", len(parsed.hashes))
		}
		if data, err := c.pages(parsed, make([]byte, framePages*PageSize)); err == nil && len(data) != len(parsed.hashes)*PageSize {
			t.Fatalf("%d bytes for %d pages", len(data), len(parsed.hashes))
		}
	})
}

func FuzzManifest(f *testing.F) {
	m := &Manifest{ID: image(1), Files: []File{{"pages-1.img", []Hash{{1}, {}, {}, {2}}}, {"empty", nil}}}
	data, _ := m.encode()
	f.Add(data[:len(data)-len(Hash{})])
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := parseBody(b)
		if err != nil {
			return
		}
		again, sum := m.encode()
		back, err := parseManifest(again, sum)
		must(t, err)
		data, _ := back.encode()
		want(t, "what is read back", bytes.Equal(data, again), true)
	})
}

func FuzzPackHead(f *testing.F) {
	f.Add(headOfPack(7))
	f.Fuzz(func(t *testing.T, b []byte) {
		if number, err := parsePackHead(b); err == nil && !bytes.Equal(headOfPack(number), b) {
			t.Fatalf("head of pack %d", number)
		}
	})
}

func FuzzFramesOfAPack(f *testing.F) {
	c, err := newCodec()
	must(f, err)
	f.Add(append(headOfPack(7), append(c.frame([]Hash{{1}, {2}}, file(0, 0)), c.frame([]Hash{{3}}, file(0))...)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		end := uint64(packHead)
		for at := range framesOf(bytes.NewReader(b), 7) {
			if at.offset != end || at.length <= frameHead || at.pages == 0 || at.offset+frameHead > uint64(len(b)) {
				t.Fatalf("frame %+v after %d of %d bytes", at, end, len(b))
			}
			end = at.offset + uint64(at.length)
		}
	})
}

func FuzzRows(f *testing.F) {
	f.Add(pageRow{place{1, 20, 4096, 64}, 3}.encode())
	f.Add(packRow{1, 2, 3}.encode())
	f.Add(imageRow{number: 1, bytes: 2, pages: 3}.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if r, err := parsePageRow(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("page row %+v", r)
		}
		if r, err := parsePackRow(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("pack row %+v", r)
		}
		if r, err := parseImageRow(b); err == nil && !bytes.Equal(r.encode(), b) {
			t.Fatalf("image row %+v", r)
		}
	})
}
