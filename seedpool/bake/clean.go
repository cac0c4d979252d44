package bake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/containerd/v2/pkg/atomicfile"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// manifest is bake.json: what a bake has outside its directory.
type manifest struct {
	ID     string `json:"id"`
	Cgroup string `json:"cgroup"`
}

func (m manifest) check() error {
	if !path.IsAbs(m.Cgroup) || path.Clean(m.Cgroup) != m.Cgroup || m.Cgroup == "/" {
		return fmt.Errorf("cgroup path %q is not a clean absolute path", m.Cgroup)
	}
	return nil
}

func (m manifest) write(dir string) error {
	f, err := atomicfile.New(filepath.Join(dir, "bake.json"), 0o600)
	if err != nil {
		return err
	}
	if err := json.NewEncoder(f).Encode(m); err != nil {
		return errors.Join(err, f.Cancel())
	}
	return f.Close()
}

// CleanupDir ends the bake that has worked in dir and removes all it had but its images: processes, cgroup, dir itself. A directory that
// does not exist is clean. It is what Run does in the end, and what recovery does for a bake whose process has died.
func CleanupDir(ctx context.Context, dir string) error {
	data, err := os.ReadFile(filepath.Join(dir, "bake.json"))
	if errors.Is(err, fs.ErrNotExist) {
		// Nothing is made before bake.json.
		return os.RemoveAll(dir)
	}
	if err != nil {
		return err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return fmt.Errorf("read bake %s: %w", dir, err)
	}
	if err := m.check(); err != nil {
		return fmt.Errorf("read bake %s: %w", dir, err)
	}
	cgroup := linux.Cgroup{Path: m.Cgroup}
	if err := cgroup.Kill(); err != nil {
		return err
	}
	if err := cgroup.WaitEmpty(ctx); err != nil {
		return err
	}
	if err := cgroup.Remove(); err != nil {
		return err
	}
	return os.RemoveAll(dir)
}
