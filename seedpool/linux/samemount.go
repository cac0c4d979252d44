package linux

import (
	"os"

	"golang.org/x/sys/unix"
)

// SameMount says whether two paths lead into the same mount: a path between them crosses none.
func SameMount(a, b string) (bool, error) {
	one, err := mountID(a)
	if err != nil {
		return false, err
	}
	other, err := mountID(b)
	return one == other, err
}

func mountID(path string) (uint64, error) {
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: path, Err: err}
	}
	return st.Mnt_id, nil
}
