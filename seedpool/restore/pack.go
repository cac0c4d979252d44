package restore

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// The files of a container's tmpfs mounts (pid files and sockets' directories below /run, shared memory in /dev/shm) are part of what the app is. CRIU would
// pack them with an external tar, and start one for each mount at each restore; we write the same into the image ourselves, and only when there is a file.

// maxPacked bounds the files of one tmpfs mount, in bytes: each restore has to write them.
const maxPacked = 256 << 20

// ErrTooMuch is wrapped when a tmpfs mount holds more than an image takes.
var ErrTooMuch = errors.New("the files in it are too large to be part of an image")

// packed is the image file with the files of the spec's n-th mount.
func packed(imagesDir string, n int) string {
	return filepath.Join(imagesDir, fmt.Sprintf("mount-%d.tar", n))
}

// packAll writes the files of all tmpfs mounts of a stopped container into the image.
func packAll(pid int, imagesDir string, spec *specs.Spec) error {
	points, _, err := mountPoints(pid)
	if err != nil {
		return err
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	for n, m := range spec.Mounts {
		if m.Type != "tmpfs" {
			continue
		}
		point, err := resolve(root, m.Destination)
		if err != nil {
			return err
		}
		p := &packer{root: root, point: point, points: points, dev: point == "/dev"}
		if err := p.write(packed(imagesDir, n)); err != nil {
			return fmt.Errorf("pack %s: %w", point, err)
		}
	}
	return nil
}

// packer packs one mount.
type packer struct {
	root, point string
	// points are all mount points of the container: what lies on another mount is not ours.
	points map[string]bool
	// dev: device nodes and the usual links are made again from the spec.
	dev bool
	// name of the archive, which is made for the first file.
	name  string
	file  *os.File
	tar   *tar.Writer
	total int64
}

func (p *packer) write(file string) error {
	from := filepath.Join(p.root, p.point)
	p.name = file
	err := filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil || rel == "." {
			return err
		}
		if p.points[path.Join(p.point, rel)] {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		return p.add(name, rel, entry)
	})
	if p.file == nil {
		return err
	}
	if err == nil {
		err = p.tar.Close()
	}
	return errors.Join(err, p.file.Close())
}

// add packs one file. Sockets are made by CRIU when it binds them again.
func (p *packer) add(name, rel string, entry fs.DirEntry) error {
	info, err := entry.Info()
	if err != nil {
		return err
	}
	link := ""
	switch mode := info.Mode(); {
	case mode&fs.ModeSocket != 0, p.dev && (mode&fs.ModeDevice != 0 || isDevLink(rel)):
		return nil
	case mode&fs.ModeDevice != 0:
		return fmt.Errorf("%s is a device", rel)
	case mode&fs.ModeSymlink != 0:
		if link, err = os.Readlink(name); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name, header.Uname, header.Gname = rel, "", ""
	if p.file == nil {
		if p.file, err = os.OpenFile(p.name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
			return err
		}
		p.tar = tar.NewWriter(p.file)
	}
	if err := p.tar.WriteHeader(header); err != nil || !info.Mode().IsRegular() {
		return err
	}
	if p.total += info.Size(); p.total > maxPacked {
		return fmt.Errorf("more than %d MiB: %w", maxPacked>>20, ErrTooMuch)
	}
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.CopyN(p.tar, f, info.Size())
	return err
}

// archiveEnd is what an archive ends with: two empty blocks. The tar package takes a file that was cut off between two members for a whole one.
const archiveEnd = 1024

func checkArchive(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	end := make([]byte, archiveEnd)
	if _, err := f.ReadAt(end, info.Size()-archiveEnd); err != nil || info.Size()%512 != 0 || bytes.ContainsFunc(end, func(r rune) bool { return r != 0 }) {
		return fmt.Errorf("%s: cut off: %w", filepath.Base(file), ErrImage)
	}
	return nil
}

// unpack puts the packed files into a fresh mount. What is there already stays. No file: there was nothing to pack. Paths and links of the archive, which is
// untrusted like all of an image, cannot lead out of the mount.
func unpack(file, dir string) error {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for r := tar.NewReader(f); ; {
		header, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = unpackOne(root, header, r)
		}
		if err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("unpack %s: %w", filepath.Base(file), err)
		}
	}
}

func unpackOne(root *os.Root, h *tar.Header, data io.Reader) error {
	mode := h.FileInfo().Mode()
	switch h.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(h.Name, 0o700); err != nil {
			return err
		}
	case tar.TypeReg:
		f, err := root.OpenFile(h.Name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, data)
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, h.Name); err != nil {
			return err
		}
		return root.Lchown(h.Name, h.Uid, h.Gid)
	case tar.TypeFifo:
		if err := makeFifo(root, h.Name); err != nil {
			return err
		}
	default:
		return fmt.Errorf("%s is of type %q", h.Name, h.Typeflag)
	}
	// The owner first: a change of owner takes the set-user-id bit away.
	if err := root.Lchown(h.Name, h.Uid, h.Gid); err != nil {
		return err
	}
	if err := root.Chmod(h.Name, mode.Perm()|mode&(fs.ModeSetuid|fs.ModeSetgid|fs.ModeSticky)); err != nil {
		return err
	}
	return root.Chtimes(h.Name, h.ModTime, h.ModTime)
}

// makeFifo makes a named pipe; os.Root has no call for it, but its directory, once opened, is not left any more.
func makeFifo(root *os.Root, name string) error {
	dir, err := root.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	return linux.MakeFifo(fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), path.Base(name)), 0o600)
}
