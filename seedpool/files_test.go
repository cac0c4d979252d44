package seedpool

import (
	"bytes"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/magic"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// writeImages writes the smallest images that CRIU's format allows.
func writeImages(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	magics := magic.LoadMagic().ByName
	frame := func(kind string, m proto.Message) []byte {
		data, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
		if err != nil {
			panic(err)
		}
		var b bytes.Buffer
		if kind != "INVENTORY" {
			_ = binary.Write(&b, binary.LittleEndian, uint32(magics["IMG_COMMON"]))
		}
		_ = binary.Write(&b, binary.LittleEndian, []uint32{uint32(magics[kind]), uint32(len(data))})
		b.Write(data)
		return b.Bytes()
	}
	for name, data := range map[string][]byte{
		"inventory.img": frame("INVENTORY", &inventory.InventoryEntry{ImgVersion: proto.Uint32(2)}),
		"pstree.img":    frame("PSTREE", &pstree.PstreeEntry{Pid: proto.Uint32(1), Ppid: proto.Uint32(0), Pgid: proto.Uint32(1), Sid: proto.Uint32(1), Threads: []uint32{1}}),
		"core-1.img":    frame("CORE", &criucore.CoreEntry{Mtype: criucore.CoreEntry_X86_64.Enum()}),
		"pages-1.img":   bytes.Repeat([]byte("pages of the app"), 1024),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func sealedSeed(t *testing.T) seedDir {
	t.Helper()
	d := seedDir(t.TempDir())
	if err := writeImages(d.path("images")); err != nil {
		t.Fatal(err)
	}
	if err := d.seal(&api.SeedMeta{Info: &api.SeedInfo{Name: "x"}}, spec()); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d seedDir) path(name string) string { return filepath.Join(string(d), name) }

func damage(t *testing.T, path string, change func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, change(data), 0o600); err != nil {
		t.Fatal(err)
	}
}

func flipBit(b []byte) []byte { b[len(b)/2] ^= 1; return b }
func halve(b []byte) []byte   { return b[:len(b)/2] }

func TestASealedSeedVerifies(t *testing.T) {
	files, bytes, problems, err := sealedSeed(t).verify(false)
	if err != nil || len(problems) > 0 || files != 5 || bytes < 16*1024 {
		t.Errorf("%d files, %d bytes, %v, %v", files, bytes, problems, err)
	}
}

func TestDamageIsFoundAndTheFileNamed(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, d seedDir)
		want string
	}{
		"flipped bit in pages": {func(t *testing.T, d seedDir) { damage(t, d.path("images/pages-1.img"), flipBit) }, "images/pages-1.img: checksum differs"},
		"truncated pages":      {func(t *testing.T, d seedDir) { damage(t, d.path("images/pages-1.img"), halve) }, "images/pages-1.img: checksum differs"},
		"changed spec":         {func(t *testing.T, d seedDir) { damage(t, d.path("spec.json"), flipBit) }, "spec.json: checksum differs"},
		"missing image":        {func(t *testing.T, d seedDir) { remove(t, d.path("images/core-1.img")) }, "images/core-1.img: missing"},
		"file too many":        {func(t *testing.T, d seedDir) { write(t, d.path("images/core-2.img"), "x") }, "images/core-2.img: not part of the seed"},
		"no spec":              {func(t *testing.T, d seedDir) { remove(t, d.path("spec.json")) }, "spec.json"},
		"no images":            {func(t *testing.T, d seedDir) { remove(t, d.path("images")) }, "images"},
		"no sums":              {func(t *testing.T, d seedDir) { remove(t, d.path("sums")) }, "sums"},
		"sums of nothing":      {func(t *testing.T, d seedDir) { write(t, d.path("sums"), "") }, "sums: it is empty"},
		"sums that climb": {func(t *testing.T, d seedDir) {
			write(t, d.path("sums"), strings.Repeat("0", 64)+"  images/../meta.json\n")
		}, "sums: read line 1"},
	} {
		t.Run(name, func(t *testing.T) {
			d := sealedSeed(t)
			c.do(t, d)
			_, _, problems, err := d.verify(false)
			if err != nil || len(problems) == 0 || !strings.Contains(strings.Join(problems, "\n"), c.want) {
				t.Errorf("problems %q, %v; want %q", problems, err, c.want)
			}
		})
	}
}

func TestALinkInTheImagesIsNotFollowed(t *testing.T) {
	d := sealedSeed(t)
	remove(t, d.path("images/pages-1.img"))
	if err := os.Symlink("/etc/passwd", d.path("images/pages-1.img")); err != nil {
		t.Fatal(err)
	}
	if _, _, _, err := d.verify(false); err == nil {
		t.Error("a link was read")
	}
}

func TestIdentityChangesWithEveryWrite(t *testing.T) {
	d := sealedSeed(t)
	identity := func() string {
		t.Helper()
		id, err := d.identity()
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	before := identity()
	if identity() != before {
		t.Error("it changes by itself")
	}
	// The same bytes, and the old time put back: the inode still tells.
	info, err := os.Stat(d.path("images/pages-1.img"))
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(10 * time.Millisecond) // the kernel's clock for inodes ticks every few milliseconds
	damage(t, d.path("images/pages-1.img"), func(b []byte) []byte { return b })
	if err := os.Chtimes(d.path("images/pages-1.img"), info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if identity() == before {
		t.Error("a write is not seen")
	}
	before = identity()
	write(t, d.path("images/new.img"), "")
	if identity() == before {
		t.Error("a new file is not seen")
	}
}

func TestSumsAreThoseOfSha256sum(t *testing.T) {
	d := sealedSeed(t)
	cmd := exec.Command("sha256sum", "--check", "--strict", "sums")
	cmd.Dir = string(d)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func FuzzSums(f *testing.F) {
	f.Add(strings.Repeat("0", 64) + "  images/pages-1.img\n")
	f.Add(strings.Repeat("0", 64) + "  spec.json\n" + strings.Repeat("f", 64) + "  images/a")
	f.Add("zz  images/a\n")
	f.Fuzz(func(t *testing.T, text string) {
		sums, err := parseSums(strings.NewReader(text))
		if err != nil {
			return
		}
		for name := range sums {
			if name != fileSpec && filepath.Dir(name) != "images" {
				t.Errorf("accepted a file outside: %q", name)
			}
		}
		again, err := parseSums(strings.NewReader(formatSums(sums)))
		if diff := cmp.Diff(sums, again); err != nil || diff != "" {
			t.Errorf("%v: %s", err, diff)
		}
	})
}

func remove(t testing.TB, path string) {
	t.Helper()
	if err := os.RemoveAll(path); err != nil {
		t.Fatal(err)
	}
}

func write(t testing.TB, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
