package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// Replace puts a directory in the place of an empty one, in one step, with rename(2). os.Rename refuses any directory as its target.
// ENOTEMPTY: the target is not empty, and nothing has changed (rename(2) lets a file system answer EEXIST for this too).
func Replace(dir, empty string) error {
	if err := unix.Rename(dir, empty); err != nil {
		return &os.LinkError{Op: "rename", Old: dir, New: empty, Err: err}
	}
	return nil
}
