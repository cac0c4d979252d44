package snapshotter

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// syncTree brings dir, every file and directory below it and its own entry to the disk. Whiteouts, links, pipes and sockets live in their directory
// and are not opened.
func syncTree(dir string) error {
	root, err := os.OpenRoot(dir) // what an application left behind must not lead out of it
	if err != nil {
		return err
	}
	defer root.Close()
	err = fs.WalkDir(root.FS(), ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() && !entry.Type().IsRegular() {
			return err
		}
		return syncFile(root.Open(path))
	})
	if err != nil {
		return err
	}
	return syncFile(os.Open(filepath.Dir(dir)))
}

func syncFile(file *os.File, err error) error {
	if err != nil {
		return err
	}
	return errors.Join(file.Sync(), file.Close())
}
