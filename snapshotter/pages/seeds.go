package pages

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// Seeds are the images of a store whose names are those of seeds, and whose tenants their namespaces.
type Seeds struct {
	Store *Store
}

var _ seedpool.Pages = Seeds{}

// Put implements seedpool.Pages.
func (s Seeds) Put(ctx context.Context, namespace, seed string, files ...string) error {
	var sources []Source
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		defer f.Close()
		sources = append(sources, Source{Name: filepath.Base(name), Data: f})
	}
	_, err := s.Store.Put(ctx, ID{namespace, seed}, sources...)
	return err
}

// Fill implements seedpool.Pages.
func (s Seeds) Fill(ctx context.Context, namespace, seed, dir string) error {
	i, err := s.Store.Image(ID{namespace, seed})
	if err != nil {
		return err
	}
	defer i.Close()
	for _, file := range i.Files {
		if err := i.fillFile(ctx, file, dir); err != nil {
			return err
		}
	}
	return nil
}

// fillFile writes a file with holes where its pages are zeros.
func (i *Image) fillFile(ctx context.Context, file File, dir string) (err error) {
	if filepath.Base(file.Name) != file.Name {
		return fmt.Errorf("file %q of %s: not a name: %w", file.Name, i.ID, errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile(filepath.Join(dir, file.Name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Truncate(int64(len(file.Pages)) * PageSize); err != nil {
		return err
	}
	return i.Fill(ctx, file.Name, f, Extent{0, len(file.Pages)})
}

// Verify implements seedpool.Pages.
func (s Seeds) Verify(ctx context.Context, namespace, seed string) (bytes uint64, problems []string, err error) {
	list, err := s.Store.Verify(ctx, ID{namespace, seed})
	if err != nil {
		return 0, nil, err
	}
	for _, p := range list {
		problems = append(problems, p.Error())
	}
	usage, err := s.Store.Usage(ID{namespace, seed})
	if isDamage(err) && len(problems) > 0 {
		err = nil
	}
	return usage.Pages * PageSize, problems, err
}

// Usage implements seedpool.Pages.
func (s Seeds) Usage(_ context.Context, namespace, seed string) (*api.PagesUsage, error) {
	u, err := s.Store.Usage(ID{namespace, seed})
	if err != nil {
		return nil, err
	}
	return &api.PagesUsage{Pages: u.Pages, Zeros: u.Zeros, Unique: u.Unique, Shared: u.Shared, UniqueBytes: u.UniqueBytes, SharedBytes: u.SharedBytes}, nil
}

// Total implements seedpool.Pages.
func (s Seeds) Total() (memory, disk uint64, err error) {
	t, err := s.Store.Total()
	return t.Pages * PageSize, t.Bytes, err
}

// Remove implements seedpool.Pages.
func (s Seeds) Remove(ctx context.Context, namespace, seed string) error {
	if err := s.Store.Remove(ctx, ID{namespace, seed}); err != nil {
		return err
	}
	// Damage that is found on the way is that of other seeds.
	if _, err := s.Store.Collect(ctx); !isDamage(err) {
		return err
	}
	return nil
}

// List implements seedpool.Pages.
func (s Seeds) List(context.Context) (map[string]string, error) {
	ids, err := s.Store.Images()
	if err != nil {
		return nil, err
	}
	namespaces := make(map[string]string)
	for _, id := range ids {
		namespaces[id.Name] = id.Tenant
	}
	return namespaces, nil
}
