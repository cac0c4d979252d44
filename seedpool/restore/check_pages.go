package restore

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/pagemap"
	"google.golang.org/protobuf/proto"
)

// Flags of a run of pages in a pagemap (CRIU's pagemap.h).
const (
	pageInParent = 1 << 0
	pagePresent  = 1 << 2
)

// pageSize is that of the architecture that Check accepts, in bytes.
const pageSize = 4096

// checkPages makes sure that a pagemap's pages file has exactly the pages that it lists, and the parent those that it says are there. Its first entry names the pages file.
func checkPages(file string) error {
	var head *pagemap.PagemapHead
	var pages uint64
	var parent []pageRun
	name := filepath.Base(file)
	err := entries(file, func(data []byte) error {
		if head == nil {
			head = new(pagemap.PagemapHead)
			return decoded(name, data, head)
		}
		var e pagemap.PagemapEntry
		if err := decoded(name, data, &e); err != nil {
			return err
		}
		run := pageRun{address: e.GetVaddr(), pages: countPages(&e)}
		// No sum of runs can overflow: none is larger than an address space.
		if run.pages > addressSpace/pageSize || run.address > addressSpace {
			return fmt.Errorf("%s: run of %d pages: %w", name, run.pages, ErrImage)
		}
		switch {
		case isInParent(&e):
			parent = append(parent, run)
		case e.GetFlags()&pagePresent != 0:
			pages += run.pages
		}
		return nil
	})
	if err != nil || head == nil {
		return err
	}
	if err := checkInParent(file, parent); err != nil {
		return err
	}
	info, err := os.Lstat(filepath.Join(filepath.Dir(file), fmt.Sprintf("pages-%d.img", head.GetPagesId())))
	if err != nil && pages == 0 && len(parent) == 0 {
		return nil
	}
	if err != nil || uint64(info.Size()) != pages*pageSize {
		return fmt.Errorf("%s: its pages file has not the %d pages that it should have: %w", name, pages, ErrImage)
	}
	return nil
}

func isInParent(e *pagemap.PagemapEntry) bool {
	return e.GetInParent() || e.GetFlags()&pageInParent != 0
}

// countPages is the length of a run, which older images have elsewhere.
func countPages(e *pagemap.PagemapEntry) uint64 {
	if n := e.GetNrPages(); n != 0 {
		return n
	}
	return uint64(e.GetCompatNrPages())
}

// checkInParent makes sure that a pagemap's parent has the pages that are taken from it, in the order of addresses.
func checkInParent(file string, runs []pageRun) error {
	if len(runs) == 0 {
		return nil
	}
	base := new(imageTask)
	base.files[1] = filepath.Base(file)
	if err := base.readPagemap(filepath.Join(filepath.Dir(file), parentDir)); err != nil {
		return err
	}
	for _, r := range runs {
		at := r.address
		for len(base.runs) > 0 && at < r.end() && base.runs[0].address <= at {
			at = max(at, min(r.end(), base.runs[0].end()))
			if base.runs[0].end() > at {
				break
			}
			base.runs = base.runs[1:]
		}
		if at < r.end() {
			return fmt.Errorf("%s: the page at %#x is not in its parent: %w", base.files[1], at, ErrImage)
		}
	}
	return nil
}

// checkParent makes sure that a parent has nothing but files, and all pages that they list: it has no parent itself.
func checkParent(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, entry := range list {
		if !entry.Type().IsRegular() {
			return fmt.Errorf("%s/%s: not a file: %w", parentDir, entry.Name(), ErrImage)
		}
		if !strings.HasPrefix(entry.Name(), "pagemap-") {
			continue
		}
		if err := checkPages(filepath.Join(dir, entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// decoded decodes an entry of a file.
func decoded(name string, data []byte, m proto.Message) error {
	if err := proto.Unmarshal(data, m); err != nil {
		return fmt.Errorf("%s: %w: %w", name, err, ErrImage)
	}
	return nil
}
