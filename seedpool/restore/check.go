package restore

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/inventory"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/magic"
	"google.golang.org/protobuf/proto"
)

// ErrImage is wrapped by every error of Check: the image is not one that may be restored here. Bake the seed again.
var ErrImage = errors.New("not a whole image of this machine")

// maxEntry bounds one entry of an image file, in bytes: CRIU's largest, the files and mappings of a process, stay far below.
const maxEntry = 64 << 20

// maxTasks bounds the processes and threads of an image.
const maxTasks = 1 << 16

// framed are the image files that are a sequence of sized protobuf entries. The others (pages, tar archives, ghosts) hold raw bytes.
var framed = map[string]string{
	"inventory": "INVENTORY", "pstree": "PSTREE", "core": "CORE", "mm": "MM", "pagemap": "PAGEMAP", "ids": "IDS", "fs": "FS", "files": "FILES",
	"seccomp": "SECCOMP",
}

// Check reads an image as far as to know that it is whole, of this architecture, and consistent with itself. It is cheap: pages are measured, not read.
func Check(imagesDir string) error {
	var inv inventory.InventoryEntry
	if err := one(filepath.Join(imagesDir, "inventory.img"), &inv); err != nil {
		return err
	}
	// Version 1 has no common header, 2 has; both are all that there is.
	if v := inv.GetImgVersion(); v != 2 {
		return fmt.Errorf("inventory.img: version %d: %w", v, ErrImage)
	}
	if err := checkFrames(imagesDir); err != nil {
		return err
	}
	return checkTasks(imagesDir)
}

// checkFrames walks through the entries of every framed file.
func checkFrames(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range list {
		if entry.IsDir() && entry.Name() == parentDir {
			if err := checkParent(filepath.Join(dir, parentDir)); err != nil {
				return err
			}
			continue
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%s: not a file: %w", entry.Name(), ErrImage)
		}
		path := filepath.Join(dir, entry.Name())
		kind, _, _ := strings.Cut(strings.TrimSuffix(entry.Name(), ".img"), "-")
		switch {
		case strings.HasSuffix(entry.Name(), ".tar"):
			err = checkArchive(path)
		case !strings.HasSuffix(entry.Name(), ".img") || framed[kind] == "":
		case kind == "pagemap":
			err = checkPages(path)
		default:
			err = entries(path, func([]byte) error { return nil })
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkTasks makes sure that every thread of the tree has its core, of this architecture.
func checkTasks(dir string) error {
	tasks := 0
	return entries(filepath.Join(dir, "pstree.img"), func(data []byte) error {
		var task pstree.PstreeEntry
		if err := decoded("pstree.img", data, &task); err != nil {
			return err
		}
		if tasks += 1 + len(task.GetThreads()); tasks > maxTasks {
			return fmt.Errorf("pstree.img: more than %d threads: %w", maxTasks, ErrImage)
		}
		core, err := checkCore(dir, task.GetPid())
		if err != nil || core.GetTc().GetTaskState() != taskAlive {
			// Of a zombie CRIU writes no thread, and whatever number lies in its memory.
			return err
		}
		for _, tid := range task.GetThreads() {
			if _, err := checkCore(dir, tid); err != nil {
				return err
			}
		}
		return nil
	})
}

// taskAlive is CRIU's state of a process that is no zombie.
const taskAlive = 1

// checkCore reads the registers' file of one thread.
func checkCore(dir string, tid uint32) (*criucore.CoreEntry, error) {
	core := new(criucore.CoreEntry)
	name := fmt.Sprintf("core-%d.img", tid)
	if err := one(filepath.Join(dir, name), core); err != nil {
		return nil, err
	}
	if m := core.GetMtype(); m != criucore.CoreEntry_X86_64 {
		return nil, fmt.Errorf("%s: architecture %s: %w", name, m, ErrImage)
	}
	return core, nil
}

// one decodes the first entry of a file.
func one(path string, m proto.Message) error {
	found := false
	err := entries(path, func(data []byte) error {
		if found {
			return nil
		}
		found = true
		return decoded(filepath.Base(path), data, m)
	})
	if err == nil && !found {
		err = fmt.Errorf("%s: no entry: %w", filepath.Base(path), ErrImage)
	}
	return err
}

// entries calls fn for each entry of a framed file. A missing or short file, a foreign magic number and a size beyond the file's end are ErrImage.
func entries(path string, fn func(data []byte) error) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%s: missing: %w", filepath.Base(path), ErrImage)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	kind, _, _ := strings.Cut(strings.TrimSuffix(filepath.Base(path), ".img"), "-")
	if err := walk(bufio.NewReader(f), framed[kind], fn); err != nil {
		return fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return nil
}

// magics are CRIU's numbers of file kinds.
var magics = magic.LoadMagic().ByName

// walk reads the magic numbers and then entries, each with its size in front, little-endian.
func walk(r io.Reader, kind string, fn func(data []byte) error) error {
	want := []uint64{magics["IMG_COMMON"], magics[kind]}
	if kind == "INVENTORY" {
		// The one file that tells which version the others are of has no common number.
		want = want[1:]
	}
	for _, number := range want {
		var have uint32
		if err := binary.Read(r, binary.LittleEndian, &have); err != nil {
			return fmt.Errorf("cut off: %w", ErrImage)
		}
		if uint64(have) != number {
			return fmt.Errorf("magic number %#x is not %#x of %s: %w", have, number, kind, ErrImage)
		}
	}
	for {
		var size [4]byte
		if _, err := io.ReadFull(r, size[:]); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("cut off: %w", ErrImage)
		}
		n := binary.LittleEndian.Uint32(size[:])
		if n > maxEntry {
			return fmt.Errorf("entry of %d bytes: %w", n, ErrImage)
		}
		// The size is believed only as far as there are bytes: a lie must not make us allocate.
		data, err := io.ReadAll(io.LimitReader(r, int64(n)))
		if err != nil || len(data) < int(n) {
			return fmt.Errorf("cut off: %w", ErrImage)
		}
		if err := fn(data); err != nil {
			return err
		}
	}
}
