package seedpool

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protojson"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// keepRequest writes what the bake was asked for, for the day on which it is to be repeated.
func (d seedDir) keepRequest(r *api.BakeRequest) error {
	data, err := protojson.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	return d.write(fileRequest, data)
}

// request reads it. NotFound: it was not kept.
func (d seedDir) request() (*api.BakeRequest, error) {
	data, err := os.ReadFile(filepath.Join(string(d), fileRequest))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fail(errdefs.ErrNotFound, "how it was baked was not kept: bake it again by hand")
	}
	if err != nil {
		return nil, err
	}
	r := new(api.BakeRequest)
	if err := protojson.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read request of seed: %w", err)
	}
	return r, nil
}
