package seedpool

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Pages is what the pool needs of the page store, which implements it; sproutd puts the two together. Seeds of one namespace share pages. Errors are errdefs':
// NotFound for a seed that has none there, DataLoss for damaged ones, ResourceExhausted when the store's quota is too small.
type Pages interface {
	// Put stores files as a seed's memory: all of it, or nothing.
	Put(ctx context.Context, namespace, seed string, files ...string) error
	// Fill writes a seed's files into a directory.
	Fill(ctx context.Context, namespace, seed, dir string) error
	// Verify reads a seed's memory again; problems name what is damaged. bytes is what it would take in plain files.
	Verify(ctx context.Context, namespace, seed string) (bytes uint64, problems []string, err error)
	// Usage is what a seed's memory takes.
	Usage(ctx context.Context, namespace, seed string) (*api.PagesUsage, error)
	// Total is the memory of all seeds, and what it takes on disk, in bytes.
	Total() (memory, disk uint64, err error)
	// Remove removes a seed's memory and frees what no other needs; none is no error.
	Remove(ctx context.Context, namespace, seed string) error
	// List gives the namespace of each seed that has memory there.
	List(ctx context.Context) (namespaces map[string]string, err error)
}

// storePages moves the memory of a seed that is being baked from its images into the page store, if that is wanted.
func (p *Pool) storePages(ctx context.Context, info *api.SeedInfo) (paged bool, err error) {
	if p.pages == nil || !p.config.Pages.Store {
		return false, nil
	}
	files, err := filepath.Glob(filepath.Join(p.paths.ImagesDir(info.Id), "pages-*.img"))
	if err != nil || len(files) == 0 {
		return false, err
	}
	if err := p.pages.Put(ctx, info.Namespace, info.Id, files...); err != nil {
		return false, err
	}
	p.point("pages stored")
	for _, file := range files {
		err = errors.Join(err, os.Remove(file))
	}
	return true, err
}

// images is where a seed's images are, its memory with them. Memory that is in the page store is written out first, once in a boot. The caller holds s.load.
func (p *Pool) images(ctx context.Context, s *seed) (string, error) {
	if !s.paged {
		return p.paths.ImagesDir(s.id), nil
	}
	dir := p.hotImages(s.id)
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	fresh := dir + suffixNew
	if err := os.RemoveAll(fresh); err != nil {
		return "", err
	}
	if err := os.MkdirAll(fresh, 0o700); err != nil {
		return "", err
	}
	err := p.writeOut(ctx, s, fresh)
	if err == nil {
		return dir, os.Rename(fresh, dir)
	}
	err = fmt.Errorf("write out memory of seed %s: %w", s.id, err)
	if errdefs.IsDataLoss(err) || errdefs.IsNotFound(err) {
		return "", errors.Join(p.damaged(ctx, s, []string{err.Error()}), os.RemoveAll(fresh))
	}
	return "", errors.Join(err, os.RemoveAll(fresh))
}

// suffixNew is that of a directory that is being written.
const suffixNew = ".new"

func (p *Pool) hotImages(seed string) string {
	return filepath.Join(p.paths.HotImagesDir(p.boot), seed)
}

func (p *Pool) writeOut(ctx context.Context, s *seed, dir string) error {
	if p.pages == nil {
		return errNoPages
	}
	if err := p.pages.Fill(ctx, s.namespace, s.id, dir); err != nil {
		return err
	}
	return os.CopyFS(dir, os.DirFS(p.paths.ImagesDir(s.id)))
}

var errNoPages = fail(errdefs.ErrUnavailable, "the page store is not open")

// verify reads all of a seed again: see seedDir.verify.
func (p *Pool) verify(ctx context.Context, s *seed) (files, bytes uint64, problems []string, err error) {
	files, bytes, problems, err = s.dir.verify(s.whole())
	if err != nil || !s.paged {
		return files, bytes, problems, err
	}
	if p.pages == nil {
		return 0, 0, nil, errNoPages
	}
	stored, more, err := p.pages.Verify(ctx, s.namespace, s.id)
	if errdefs.IsNotFound(err) {
		return files, bytes, append(problems, "its memory is not in the page store"), nil
	}
	return files, bytes + stored, append(problems, more...), err
}

// pagesOf is what a seed's memory takes in the page store; nil: it is not there.
func (p *Pool) pagesOf(ctx context.Context, s *seed) (*api.PagesUsage, error) {
	if !s.paged || p.pages == nil {
		return nil, nil
	}
	usage, err := p.pages.Usage(ctx, s.namespace, s.id)
	if errdefs.IsNotFound(err) || errdefs.IsDataLoss(err) {
		// Whoever looks at the seed is to see it: verifying it says what is wrong.
		return nil, nil
	}
	return usage, err
}

// dropPages removes a seed's memory, as it is in the page store and as it was written out. Nothing of the seed may be in use.
func (p *Pool) dropPages(ctx context.Context, namespace, id string) error {
	err := errors.Join(os.RemoveAll(p.hotImages(id)), os.RemoveAll(p.hotImages(id)+suffixNew))
	if p.pages != nil {
		err = errors.Join(err, p.pages.Remove(ctx, namespace, id))
	}
	return err
}

// cool removes what was written out of a seed's memory, if no keeper is there to read it.
func (p *Pool) cool(ctx context.Context, id string) error {
	p.mu.Lock()
	s := p.seeds[id]
	p.mu.Unlock()
	if s != nil {
		s.load.Lock()
		defer s.load.Unlock()
		if _, err := p.keepers.find(ctx, id); !errdefs.IsNotFound(err) {
			return err
		}
	}
	return errors.Join(os.RemoveAll(p.hotImages(id)), os.RemoveAll(p.hotImages(id)+suffixNew))
}
