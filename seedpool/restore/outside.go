package restore

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"google.golang.org/protobuf/proto"

	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
)

// outside are the files that a container's processes have mapped, or run, and that are in none of its mounts. CRIU is told to leave them be, by names that it has for them, and
// what becomes of them in the image is ours to say.
type outside struct {
	// stores are those of memory that is shared.
	stores []string
	// lent are a template's, which its clones run: where each is in the container's own mounts, and root is the number of the first of those.
	lent map[string]string
	root uint32
}

func (o outside) names() (list []string) {
	for name := range o.lent {
		list = append(list, name)
	}
	return append(list, o.stores...)
}

// outside looks for them.
func (o DumpOptions) outside() (x outside, err error) {
	if o.Memory != nil {
		if x.stores, err = o.Memory.stores(); err != nil {
			return x, err
		}
	}
	if !o.Cloned {
		return x, nil
	}
	mounts, err := readMounts(o.PID)
	if err != nil {
		return x, err
	}
	pids, err := family(o.PID)
	if err != nil {
		return x, err
	}
	own := make(map[int]bool)
	for _, m := range mounts {
		own[m.ID] = true
		if m.Mountpoint == "/" {
			x.root = uint32(m.ID)
		}
	}
	x.lent = make(map[string]string)
	for _, pid := range pids {
		if err := x.lentTo(pid, own); err != nil {
			return x, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return x, nil
}

// lentTo finds what a process has of a template's files.
func (x outside) lentTo(pid int, own map[int]bool) error {
	links, err := mappedFiles(pid)
	if err != nil {
		return err
	}
	for _, link := range append(links, fmt.Sprintf("/proc/%d/exe", pid)) {
		path, err := os.Readlink(link)
		if errors.Is(err, os.ErrNotExist) {
			continue // it was mapped a moment ago; what is mapped from now on is the process's own
		}
		if err != nil {
			return err
		}
		// Memory that has the form of a file has no other name. A file that was removed CRIU will not find.
		if strings.HasSuffix(path, " (deleted)") {
			continue
		}
		if err := x.lend(pid, link, path, own); err != nil {
			return err
		}
	}
	return nil
}

// mappedFiles lists links to the files that a process has mapped, one for each.
func mappedFiles(pid int) (links []string, err error) {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return nil, err
	}
	seen := make(map[string]bool)
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[4] == "0" || seen[fields[3]+" "+fields[4]] {
			continue
		}
		seen[fields[3]+" "+fields[4]] = true
		links = append(links, fmt.Sprintf("/proc/%d/map_files/%s", pid, fields[0]))
	}
	return links, nil
}

// lend notes a file if it is in no mount of its process's, where one that is the same must be at the same place.
func (x outside) lend(pid int, link, path string, own map[int]bool) error {
	const onlyPath = 0x200000 // O_PATH
	f, err := os.OpenFile(link, onlyPath, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	mount, name, err := externalName(f)
	if err != nil || own[mount] {
		return err
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	place, err := resolve(root, path)
	if err != nil {
		return err
	}
	theirs, err := f.Stat()
	if err != nil {
		return err
	}
	ours, err := os.Lstat(filepath.Join(root, place))
	if errors.Is(err, os.ErrNotExist) || err == nil && (place != path || !sameFile(ours, theirs)) {
		return fmt.Errorf("%s is no longer what it runs: %w", path, ErrForeign)
	}
	x.lent[name] = path
	return err
}

// sameFile says of files in two overlays of the same layers whether both are that of a layer, with the same content.
func sameFile(a, b os.FileInfo) bool {
	s, t := a.Sys().(*syscall.Stat_t), b.Sys().(*syscall.Stat_t)
	return s.Ino == t.Ino && s.Size == t.Size && s.Mode == t.Mode && s.Mtim == t.Mtim && s.Ctim == t.Ctim
}

// bringIn makes an image one of processes that have nothing outside. They must stand.
func (x outside) bringIn(imagesDir string, first int) error {
	if len(x.stores) > 0 {
		if err := unshare(imagesDir, first, x.stores); err != nil {
			return err
		}
	}
	if len(x.lent) == 0 {
		return nil
	}
	files, err := readFiles(imagesDir)
	if err != nil {
		return err
	}
	for _, f := range files {
		x.own(f)
	}
	return writeImage(filepath.Join(imagesDir, "files.img"), "FILES", asMessages(files)...)
}

// own makes a file that was a template's one of the container's.
func (x outside) own(f *fdinfo.FileEntry) {
	reg := f.GetReg()
	if path, lent := x.lent[reg.GetName()]; lent && reg.GetExt() {
		reg.Name, reg.Ext, reg.MntId = proto.String(path), nil, proto.Int32(int32(x.root))
	}
}

// externalName is the number of a file's mount, and CRIU's name of a file by that and its inode.
func externalName(f *os.File) (mount int, name string, err error) {
	info, err := f.Stat()
	if err != nil {
		return 0, "", err
	}
	data, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", f.Fd()))
	if err != nil {
		return 0, "", err
	}
	for line := range strings.Lines(string(data)) {
		if n, _ := fmt.Sscanf(line, "mnt_id: %d", &mount); n == 1 {
			return mount, fmt.Sprintf("file[%x:%x]", mount, info.Sys().(*syscall.Stat_t).Ino), nil
		}
	}
	return 0, "", fmt.Errorf("mount of %s: %w", f.Name(), errors.ErrUnsupported)
}
