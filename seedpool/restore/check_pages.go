package restore

import (
	"fmt"
	"os"
	"path/filepath"

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

// checkPages makes sure that a pagemap's pages file has exactly the pages that it lists. Its first entry names the pages file.
func checkPages(file string) error {
	var head *pagemap.PagemapHead
	var pages uint64
	name := filepath.Base(file)
	err := entries(file, func(data []byte) error {
		if head == nil {
			head = new(pagemap.PagemapHead)
			return decoded(name, data, head)
		}
		var run pagemap.PagemapEntry
		if err := decoded(name, data, &run); err != nil {
			return err
		}
		if run.GetInParent() || run.GetFlags()&pageInParent != 0 {
			return fmt.Errorf("%s: pages of another image: %w", name, ErrImage)
		}
		if run.GetFlags()&pagePresent == 0 {
			return nil
		}
		n := run.GetNrPages()
		if n == 0 {
			n = uint64(run.GetCompatNrPages())
		}
		// No sum of runs can overflow: none is larger than an address space.
		if n > 1<<47/pageSize {
			return fmt.Errorf("%s: run of %d pages: %w", name, n, ErrImage)
		}
		pages += n
		return nil
	})
	if err != nil || head == nil {
		return err
	}
	info, err := os.Lstat(filepath.Join(filepath.Dir(file), fmt.Sprintf("pages-%d.img", head.GetPagesId())))
	if err != nil && pages == 0 {
		return nil
	}
	if err != nil || uint64(info.Size()) != pages*pageSize {
		return fmt.Errorf("%s: its pages file has not the %d pages that it should have: %w", name, pages, ErrImage)
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
