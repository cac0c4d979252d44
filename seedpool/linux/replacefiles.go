package linux

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// File is a small file of a container.
type File struct {
	Name string
	Data []byte
}

// ReplaceFiles puts files into a directory of a process, which may be frozen: dir, an absolute path without symlinks below the process's root. The directory must be the root of
// a tmpfs, else it is somebody else's and the error is ErrNotTmpfs. A file that is there already is removed, never written to: whoever has it open keeps the old one.
// The new ones are the caller's, and everybody may read them. It needs no thread in the process's namespaces.
func ReplaceFiles(pid int, dir string, files []File) error {
	if err := replaceFiles(pid, dir, files); err != nil {
		return fmt.Errorf("replace files in %s of process %d: %w", dir, pid, err)
	}
	return nil
}

// ErrNotTmpfs says that a directory is not the root of a tmpfs.
var ErrNotTmpfs = errors.New("not the root of a tmpfs")

func replaceFiles(pid int, dir string, files []File) error {
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", pid), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	d, err := openBelow(root, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	fd := int(d.Fd())
	var s unix.Statx_t
	if err := unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_TYPE, &s); err != nil {
		return os.NewSyscallError("statx", err)
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(fd, &fs); err != nil {
		return os.NewSyscallError("fstatfs", err)
	}
	if s.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 || fs.Type != unix.TMPFS_MAGIC {
		return ErrNotTmpfs
	}
	for _, f := range files {
		if err := replaceFile(fd, f); err != nil {
			return &os.PathError{Op: "write", Path: f.Name, Err: err}
		}
	}
	return nil
}

func replaceFile(dir int, f File) error {
	if err := unix.Unlinkat(dir, f.Name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	fd, err := unix.Openat(dir, f.Name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), f.Name)
	_, err = file.Write(f.Data)
	// Not at its making, where the umask would have its say.
	return errors.Join(err, file.Chmod(0o444), file.Close())
}
