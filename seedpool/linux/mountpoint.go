package linux

import (
	"errors"
	"fmt"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symlinks a path may go through, as in the kernel (MAXSYMLINKS).
const maxLinks = 40

// mountpoint opens a path below root and makes what is missing of it.
func mountpoint(root *os.File, target string, directory bool) (*os.File, error) {
	resolved, err := resolve(root, target)
	if err != nil {
		return nil, err
	}
	f, err := openBelow(root, resolved)
	if errors.Is(err, unix.ENOENT) {
		if err = makeBelow(root, resolved, directory); err == nil {
			f, err = openBelow(root, resolved)
		}
	}
	if err != nil {
		return nil, err
	}
	var st unix.Statfs_t
	if err = os.NewSyscallError("fstatfs", unix.Fstatfs(int(f.Fd()), &st)); err == nil && st.Type == unix.PROC_SUPER_MAGIC {
		err = fmt.Errorf("%s is on procfs", resolved)
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

// resolve follows the symlinks of a path below root, one at a time and as text: one that points to something missing then leads to where that would be
// made in the container, and a magic link of procfs leads nowhere. What it returns has no symlink in it and may be missing from some element on.
func resolve(root *os.File, target string) (string, error) {
	at, rest := "/", elements(target)
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		if name == ".." {
			at = path.Dir(at)
			continue
		}
		link, err := linkBelow(root, path.Join(at, name))
		if err != nil {
			return "", err
		}
		if link == "" {
			at = path.Join(at, name)
			continue
		}
		if links++; links > maxLinks {
			return "", &os.PathError{Op: "resolve", Path: target, Err: unix.ELOOP}
		}
		if path.IsAbs(link) {
			at = "/"
		}
		rest = append(elements(link), rest...)
	}
	if at == "/" {
		return "", &os.PathError{Op: "mount on", Path: target, Err: unix.EBUSY}
	}
	return at, nil
}

// elements are the names in a path. ".." is one of them: what it leads to depends on symlinks.
func elements(name string) (list []string) {
	for element := range strings.SplitSeq(name, "/") {
		if element != "" && element != "." {
			list = append(list, element)
		}
	}
	return list
}

// linkBelow returns where a symlink points to, "" for what is none or is missing.
func linkBelow(root *os.File, name string) (string, error) {
	f, err := openBelow(root, name)
	if errors.Is(err, unix.ENOENT) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", &os.PathError{Op: "fstat", Path: name, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", nil
	}
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(int(f.Fd()), "", text)
	if err != nil {
		return "", &os.PathError{Op: "readlink", Path: name, Err: err}
	}
	return string(text[:n]), nil
}

// makeBelow makes the missing elements of a path without symlinks: directories, and in the end a directory or an empty file.
func makeBelow(root *os.File, name string, directory bool) error {
	list := elements(name)
	parent := "/"
	for i, element := range list {
		dir, err := openBelow(root, parent)
		if err != nil {
			return err
		}
		err = makeEntry(int(dir.Fd()), element, directory || i < len(list)-1)
		_ = dir.Close()
		parent = path.Join(parent, element)
		if err != nil && !errors.Is(err, unix.EEXIST) {
			return &os.PathError{Op: "create", Path: parent, Err: err}
		}
	}
	return nil
}

// makeEntry follows no symlink in the last element, which is all there is.
func makeEntry(dir int, name string, directory bool) error {
	if directory {
		return unix.Mkdirat(dir, name, 0o755)
	}
	fd, err := unix.Openat(dir, name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// openBelow opens a path below root without reading it; a symlink in the last element is opened itself, one before that is ELOOP.
func openBelow(root *os.File, name string) (*os.File, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(int(root.Fd()), name, &how)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &os.PathError{Op: "open", Path: name, Err: err}
		}
		return os.NewFile(uintptr(fd), name), nil
	}
}
