package linux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestReplaceTakesTheNameOfAnEmptyDirectoryOnly(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"full/file", "empty", "other/file"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	full, empty, other := filepath.Join(root, "full"), filepath.Join(root, "empty"), filepath.Join(root, "other")
	if err := Replace(full, other); !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) {
		t.Errorf("a directory with a file: got %v", err)
	}
	if err := Replace(full, empty); err != nil {
		t.Errorf("an empty directory: got %v", err)
	}
	if _, err := os.Stat(filepath.Join(empty, "file")); err != nil {
		t.Errorf("what was moved: got %v", err)
	}
}
