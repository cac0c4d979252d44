package restore

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"

	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"google.golang.org/protobuf/proto"
)

// frame is the bytes of an image file with some entries.
func frame(t testing.TB, kind string, entries ...proto.Message) []byte {
	t.Helper()
	var b bytes.Buffer
	if kind != "INVENTORY" {
		_ = binary.Write(&b, binary.LittleEndian, uint32(magics["IMG_COMMON"]))
	}
	_ = binary.Write(&b, binary.LittleEndian, uint32(magics[kind]))
	for _, m := range entries {
		data, err := proto.MarshalOptions{AllowPartial: true}.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		_ = binary.Write(&b, binary.LittleEndian, uint32(len(data)))
		b.Write(data)
	}
	return b.Bytes()
}

// image writes the smallest image that Check accepts.
func image(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{
		"inventory.img": frame(t, "INVENTORY", &inventory.InventoryEntry{ImgVersion: proto.Uint32(2)}),
		"pstree.img":    frame(t, "PSTREE", &pstree.PstreeEntry{Pid: proto.Uint32(1), Ppid: proto.Uint32(0), Pgid: proto.Uint32(1), Sid: proto.Uint32(1), Threads: []uint32{1}}),
		"core-1.img":    frame(t, "CORE", &criucore.CoreEntry{Mtype: criucore.CoreEntry_X86_64.Enum()}),
		"pages-1.img":   make([]byte, 8192),
		"pagemap-1.img": frame(t, "PAGEMAP", &pagemap.PagemapHead{PagesId: proto.Uint32(1)},
			&pagemap.PagemapEntry{Vaddr: proto.Uint64(4096), CompatNrPages: proto.Uint32(0), NrPages: proto.Uint64(2), Flags: proto.Uint32(pagePresent)}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestWholeImageOfThisArchitectureIsAccepted(t *testing.T) {
	if err := Check(image(t)); err != nil {
		t.Fatal(err)
	}
}

func TestDamagedOrForeignImageIsRefused(t *testing.T) {
	for name, damage := range map[string]func(dir string) error{
		"no inventory": func(dir string) error { return os.Remove(filepath.Join(dir, "inventory.img")) },
		"no core":      func(dir string) error { return os.Remove(filepath.Join(dir, "core-1.img")) },
		"truncated":    func(dir string) error { return os.Truncate(filepath.Join(dir, "pstree.img"), 13) },
		"empty":        func(dir string) error { return os.Truncate(filepath.Join(dir, "pstree.img"), 0) },
		"other magic": func(dir string) error {
			return os.Rename(filepath.Join(dir, "inventory.img"), filepath.Join(dir, "pstree.img"))
		},
		"link for a file": func(dir string) error { return os.Symlink("/etc/passwd", filepath.Join(dir, "mm-1.img")) },
		"old version": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "inventory.img"), frame(t, "INVENTORY", &inventory.InventoryEntry{ImgVersion: proto.Uint32(1)}), 0o600)
		},
		"architecture": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "core-1.img"), frame(t, "CORE", &criucore.CoreEntry{Mtype: criucore.CoreEntry_AARCH64.Enum()}), 0o600)
		},
		"pages cut off": func(dir string) error { return os.Truncate(filepath.Join(dir, "pages-1.img"), 4096) },
		"no pages":      func(dir string) error { return os.Remove(filepath.Join(dir, "pages-1.img")) },
		"pages elsewhere": func(dir string) error {
			return os.WriteFile(filepath.Join(dir, "pagemap-1.img"), frame(t, "PAGEMAP", &pagemap.PagemapHead{PagesId: proto.Uint32(1)},
				&pagemap.PagemapEntry{Vaddr: proto.Uint64(4096), CompatNrPages: proto.Uint32(0), NrPages: proto.Uint64(2), Flags: proto.Uint32(pageInParent)}), 0o600)
		},
		"size beyond file": func(dir string) error { return flip(filepath.Join(dir, "core-1.img"), 10) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := image(t)
			if err := damage(dir); err != nil {
				t.Fatal(err)
			}
			if err := Check(dir); !errors.Is(err, ErrImage) {
				t.Errorf("%v", err)
			}
		})
	}
}

func flip(path string, at int) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	data[at] ^= 1
	return os.WriteFile(path, data, 0o600)
}

func FuzzImageFileIsReadWithinItsBounds(f *testing.F) {
	f.Add(frame(f, "CORE", &criucore.CoreEntry{Mtype: criucore.CoreEntry_X86_64.Enum()}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		total := 0
		err := walk(bytes.NewReader(data), "CORE", func(entry []byte) error {
			total += len(entry)
			return proto.Unmarshal(entry, new(criucore.CoreEntry))
		})
		if total > len(data) || err == nil && len(data) < 8 {
			t.Errorf("%d bytes of entries from %d, %v", total, len(data), err)
		}
	})
}
