package restore

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// parentDir is where, in the directory of an image, CRIU looks for the pages of which a pagemap says that they are in the parent.
const parentDir = "parent"

// Link gives a directory what a delta against an image takes from it: its tasks' memory. Nothing is copied; the directory has to be in the same file system.
func Link(imagesDir, dir string) error {
	list, err := os.ReadDir(imagesDir)
	if err != nil {
		return err
	}
	for _, entry := range list {
		if kind, _, _ := strings.Cut(entry.Name(), "-"); kind != "pagemap" && kind != "pages" {
			continue
		}
		if err := os.Link(filepath.Join(imagesDir, entry.Name()), filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Subtract writes, of a whole image, one without the pages that are the same at the same address of the same task in another (base, of Link), which becomes part of it. Both stay
// as they are until it is whole; `to`, which is made, is in the same file system. What is absent in the image is absent in the delta, whatever the base has there: a
// page is taken from the base only if the image has it, with the same bytes.
func Subtract(image, base, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(image)
	if err != nil {
		return err
	}
	written := make(map[string]bool)
	for _, entry := range list {
		if kind, _, _ := strings.Cut(entry.Name(), "-"); kind != "pagemap" {
			continue
		}
		files, err := subtractTask(image, base, to, entry.Name())
		if err != nil {
			return fmt.Errorf("subtract %s: %w", entry.Name(), err)
		}
		for _, name := range files {
			written[name] = true
		}
	}
	for _, entry := range list {
		if written[entry.Name()] {
			continue
		}
		if err := linkFile(filepath.Join(image, entry.Name()), filepath.Join(to, entry.Name())); err != nil {
			return err
		}
	}
	return os.Rename(base, filepath.Join(to, parentDir))
}

// subtractTask subtracts one task's memory, and names the files that it has written; none: the base has not that task. Memory that tasks share has another name each time.
func subtractTask(image, base, to, name string) (written []string, err error) {
	if _, err := os.Lstat(filepath.Join(base, name)); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	s := new(subtraction)
	var tasks [2]imageTask
	for n, dir := range []string{image, base} {
		tasks[n].files[1] = name
		if err := tasks[n].readPagemap(dir); err != nil {
			return nil, err
		}
		f, err := os.Open(filepath.Join(dir, tasks[n].pagesFile()))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		s.files[n] = f
	}
	pages := tasks[0].pagesFile()
	f, err := os.OpenFile(filepath.Join(to, pages), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	s.out = bufio.NewWriterSize(f, len(s.buffers[0]))
	if err := errors.Join(s.run(tasks[0].runs, tasks[1].runs), s.out.Flush(), f.Close()); err != nil {
		return nil, err
	}
	return []string{name, pages}, writeImage(filepath.Join(to, name), "PAGEMAP", append([]proto.Message{&tasks[0].head}, s.list...)...)
}

// stride is how many pages are compared at a time.
const stride = 256

// subtraction compares one task's memory with the base's. Of pairs the image's is the first.
type subtraction struct {
	files   [2]*os.File
	buffers [2][stride * pageSize]byte
	// out takes the pages that differ, list what becomes of all of them.
	out  *bufio.Writer
	list []proto.Message
	last *pagemap.PagemapEntry
}

// run walks through the pages of the image. Both lists are in the order of addresses.
func (s *subtraction) run(runs, base []pageRun) error {
	for _, r := range runs {
		for r.pages > 0 {
			for len(base) > 0 && base[0].end() <= r.address {
				base = base[1:]
			}
			part := pageRun{r.address, min(r.pages, stride), r.from}
			have := len(base) > 0 && base[0].address < part.end()
			switch {
			case have && base[0].address > r.address:
				part.pages, have = (base[0].address-r.address)/pageSize, false
			case have:
				part.pages = min(part.pages, (base[0].end()-r.address)/pageSize)
			}
			var err error
			if have {
				err = s.compare(part, base[0].from+(r.address-base[0].address)/pageSize)
			} else {
				err = s.keep(part)
			}
			if err != nil {
				return err
			}
			r = pageRun{part.end(), r.pages - part.pages, r.from + part.pages}
		}
	}
	return nil
}

// keep has a run in the delta.
func (s *subtraction) keep(r pageRun) error {
	data, err := s.read(0, r.pages, r.from)
	if err != nil {
		return err
	}
	return s.add(r.address, data, false)
}

// compare has those pages of a run in the delta that are not the same in the base.
func (s *subtraction) compare(r pageRun, from uint64) error {
	have, err := s.read(0, r.pages, r.from)
	if err != nil {
		return err
	}
	base, err := s.read(1, r.pages, from)
	if err != nil {
		return err
	}
	for at := 0; at < len(have); at += pageSize {
		page := have[at : at+pageSize]
		if err := s.add(r.address+uint64(at), page, bytes.Equal(page, base[at:at+pageSize])); err != nil {
			return err
		}
	}
	return nil
}

func (s *subtraction) read(n int, pages, from uint64) ([]byte, error) {
	data := s.buffers[n][:pages*pageSize]
	if _, err := s.files[n].ReadAt(data, int64(from*pageSize)); err != nil {
		if errors.Is(err, io.EOF) {
			err = fmt.Errorf("%s: cut off: %w", filepath.Base(s.files[n].Name()), ErrImage)
		}
		return nil, err
	}
	return data, nil
}

// add notes what becomes of pages, as part of the run before if they continue that.
func (s *subtraction) add(address uint64, data []byte, same bool) error {
	r := pageRun{address: address, pages: uint64(len(data)) / pageSize}
	e := keptEntry(r)
	if same {
		e.Flags = proto.Uint32(pageInParent)
	}
	if l := s.last; l != nil && l.GetFlags() == e.GetFlags() && l.GetVaddr()+l.GetNrPages()*pageSize == address {
		n := l.GetNrPages() + r.pages
		l.NrPages, l.CompatNrPages = proto.Uint64(n), proto.Uint32(uint32(n))
	} else {
		s.list, s.last = append(s.list, e), e
	}
	if same {
		return nil
	}
	_, err := s.out.Write(data)
	return err
}

// linkFile gives a file another name, which stays when it is removed; in another file system it is copied.
func linkFile(from, to string) error {
	err := os.Link(from, to)
	if errors.Is(err, syscall.EXDEV) {
		return copyFile(from, to)
	}
	return err
}
