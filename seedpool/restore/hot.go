package restore

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// Hot is an image that is ready to be restored many times at the cost of one copy of its memory: its large mappings are private mappings of a store, one file
// in memory for each task, and the rest is an image of CRIU's. Store and image cannot be changed, by an app with all privileges either.
type Hot struct {
	fs    *linux.MemoryFS
	tasks []*hotTask
}

// hotTask is the memory of one task.
type hotTask struct {
	pid uint32
	// name is the store's file, and what CRIU inherits it by.
	name string
	file *os.File
	// shared are the mappings of the store, present the pages of it that are not zero, private the other anonymous mappings.
	shared, present, private []area
	bytes                    uint64
}

// storeSize is beyond everything that a mapping may grow to: a page that lies outside its file cannot be zero, it is an error.
const storeSize = 1 << 56

// NewHot reads an image once and makes it hot. What that takes is charged to the caller's cgroup.
func NewHot(imagesDir string) (_ *Hot, err error) {
	if err := Check(imagesDir); err != nil {
		return nil, err
	}
	fs, err := linux.NewMemoryFS()
	if err != nil {
		return nil, err
	}
	h := &Hot{fs: fs}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("share memory of image: %w", err), h.Close())
		}
	}()
	if err := h.convert(imagesDir); err != nil {
		return nil, err
	}
	if err := fs.Seal(); err != nil {
		return nil, err
	}
	for _, t := range h.tasks {
		if t.file, err = os.Open(fs.Path(t.name)); err != nil {
			return nil, err
		}
	}
	return h, nil
}

// Close lets go of the store, which is there as long as an instance is.
func (h *Hot) Close() error {
	for _, t := range h.tasks {
		if t.file != nil {
			_ = t.file.Close()
		}
	}
	return h.fs.Close()
}

// Bytes is how much memory an instance shares.
func (h *Hot) Bytes() (n uint64) {
	for _, t := range h.tasks {
		n += t.bytes
	}
	return n
}

// dir is where the image is, for this process.
func (h *Hot) dir() string { return h.fs.Path("images") }

// convert writes image and stores.
func (h *Hot) convert(imagesDir string) error {
	tasks, err := readTasks(imagesDir)
	if err != nil {
		return err
	}
	files, err := readFiles(imagesDir)
	if err != nil {
		return err
	}
	if err := os.Mkdir(h.dir(), 0o700); err != nil {
		return err
	}
	ours := []string{"files.img"}
	for _, t := range tasks {
		made, err := h.convertTask(imagesDir, t, freeID(files))
		if err != nil {
			return fmt.Errorf("task %d: %w", t.pid, err)
		}
		entry, err := storeEntry(files, t.mm.GetExeFileId(), freeID(files), made.name)
		if err != nil {
			return err
		}
		files, h.tasks = append(files, entry), append(h.tasks, made)
		ours = append(ours, t.files[0], t.files[1], t.pagesFile())
	}
	if err := writeImage(filepath.Join(h.dir(), "files.img"), "FILES", asMessages(files)...); err != nil {
		return err
	}
	return copyOthers(imagesDir, h.dir(), ours)
}

func asMessages(files []*fdinfo.FileEntry) (list []proto.Message) {
	for _, f := range files {
		list = append(list, f)
	}
	return list
}

// convertTask writes one task's store and what stays of its image.
func (h *Hot) convertTask(imagesDir string, t *imageTask, id uint32) (*hotTask, error) {
	c, err := convert(t.mm.GetVmas(), t.runs, id)
	if err != nil {
		return nil, err
	}
	made := &hotTask{pid: t.pid, name: fmt.Sprintf("%s%d", storePrefix, t.pid), shared: c.shared, private: c.private}
	pages, err := os.Open(filepath.Join(imagesDir, t.pagesFile()))
	if errors.Is(err, os.ErrNotExist) && len(t.runs) == 0 {
		pages, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer pages.Close()
	if err := made.store(h.fs.Path(made.name), c, pages); err != nil {
		return nil, err
	}
	entries := []proto.Message{&t.head}
	for _, r := range c.kept {
		entries = append(entries, keptEntry(r))
	}
	return made, errors.Join(
		keep(filepath.Join(h.dir(), t.pagesFile()), c.kept, pages),
		writeImage(filepath.Join(h.dir(), t.files[1]), "PAGEMAP", entries...),
		writeImage(filepath.Join(h.dir(), t.files[0]), "MM", &t.mm))
}

// blockPages is how many pages are read at once.
const blockPages = 256

// eachBlock reads runs of pages in blocks.
func eachBlock(runs []pageRun, pages io.ReaderAt, fn func(address uint64, data []byte) error) error {
	block := make([]byte, blockPages*pageSize)
	for _, r := range runs {
		for done := uint64(0); done < r.pages; done += blockPages {
			data := block[:min(blockPages, r.pages-done)*pageSize]
			if _, err := pages.ReadAt(data, int64((r.from+done)*pageSize)); err != nil {
				return fmt.Errorf("read pages: %w", err)
			}
			if err := fn(r.address+done*pageSize, data); err != nil {
				return err
			}
		}
	}
	return nil
}

// store writes the pages that are not zero.
func (t *hotTask) store(path string, c *conversion, pages io.ReaderAt) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	at := 0
	err = eachBlock(c.stored, pages, func(address uint64, data []byte) error {
		offset := c.offset(&at, address)
		for first, next := 0, 0; first < len(data); first = next {
			zero := isZero(data[first : first+pageSize])
			for next = first + pageSize; next < len(data) && isZero(data[next:next+pageSize]) == zero; next += pageSize {
			}
			if zero {
				continue
			}
			if _, err := f.WriteAt(data[first:next], int64(offset)+int64(first)); err != nil {
				return err
			}
			t.add(address+uint64(first), uint64(next-first))
		}
		return nil
	})
	return errors.Join(err, f.Truncate(storeSize))
}

// add notes pages that the store has. They come in the order of addresses. No run goes beyond its mapping.
func (t *hotTask) add(start, length uint64) {
	t.bytes += length
	if n := len(t.present); n > 0 && t.present[n-1].start+t.present[n-1].length == start && !t.begins(start) {
		t.present[n-1].length += length
		return
	}
	t.present = append(t.present, area{start, length})
}

func (t *hotTask) begins(start uint64) bool {
	_, found := slices.BinarySearchFunc(t.shared, start, func(a area, start uint64) int {
		switch {
		case a.start < start:
			return -1
		case a.start > start:
			return 1
		}
		return 0
	})
	return found
}

var zeroPage [pageSize]byte

func isZero(page []byte) bool { return bytes.Equal(page, zeroPage[:]) }

// keep writes the pages that CRIU loads itself.
func keep(path string, runs []pageRun, pages io.ReaderAt) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return eachBlock(runs, pages, func(_ uint64, data []byte) error {
		_, err := f.Write(data)
		return err
	})
}

// copyOthers copies the files of an image apart from some, and from those that are not CRIU's.
func copyOthers(from, to string, but []string) error {
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, entry := range list {
		if !strings.HasSuffix(entry.Name(), ".img") || slices.Contains(but, entry.Name()) {
			continue
		}
		if err := copyFile(filepath.Join(from, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

func copyFile(from, to string) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
