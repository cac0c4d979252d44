package linux

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Watch is one watch of an inotify descriptor.
type Watch struct {
	// WD is its number, Mask has IN_ALL_EVENTS, IN_ONESHOT and IN_EXCL_UNLINK.
	WD   int
	Mask uint32
	// Path leads to what it is on, from the root of the process; empty: nobody has looked for it, or it was not found.
	Path string
	// Device and Inode are what stat(2) says of that, Handle is a file handle, if the kernel tells one.
	Device, Inode uint64 `json:"-"`
	HandleType    int32  `json:"-"`
	Handle        []byte `json:"-"`
}

// InotifySetNextWD is INOTIFY_IOC_SETNEXTWD of include/uapi/linux/inotify.h, which kernels with CONFIG_CHECKPOINT_RESTORE have.
const InotifySetNextWD = 0x40044900

// kernelMinorBits says how the kernel packs a device number, other than stat(2).
const kernelMinorBits = 20

// ParseWatch reads a line of an inotify descriptor's fdinfo, as fs/notify/fdinfo.c prints it.
func ParseWatch(line string) (w Watch, err error) {
	line, ok := strings.CutPrefix(line, "inotify ")
	if !ok {
		return w, strconv.ErrSyntax
	}
	numbers := map[string]uint64{}
	for _, field := range strings.Fields(line) {
		name, value, _ := strings.Cut(field, ":")
		if name == "f_handle" {
			if w.Handle, err = hex.DecodeString(value); err != nil {
				return w, err
			}
			continue
		}
		if numbers[name], err = strconv.ParseUint(value, 16, 64); err != nil {
			return w, err
		}
	}
	w.WD, w.Mask, w.Inode, w.HandleType = int(numbers["wd"]), uint32(numbers["mask"]), numbers["ino"], int32(numbers["fhandle-type"])
	w.Device = unix.Mkdev(uint32(numbers["sdev"]>>kernelMinorBits), uint32(numbers["sdev"]&(1<<kernelMinorBits-1)))
	if w.WD <= 0 || w.Mask == 0 || w.Inode == 0 {
		return w, strconv.ErrSyntax
	}
	return w, nil
}

// KernelDevice is its device as the kernel packs it.
func (w Watch) KernelDevice() uint32 {
	return unix.Major(w.Device)<<kernelMinorBits | unix.Minor(w.Device)
}

// EventsWaiting is how many bytes of events are to be read from an inotify descriptor of the process.
func (p *Pidfd) EventsWaiting(fd int) (n int, err error) {
	err = p.borrow(fd, func(fd int) error {
		n, err = unix.IoctlGetInt(fd, unix.TIOCINQ)
		return os.NewSyscallError("ioctl TIOCINQ", err)
	})
	return n, err
}

// AddWatches gives an inotify descriptor of the process watches, with their numbers; a watch that is there already becomes as it is given. Links are not followed.
func (p *Pidfd) AddWatches(fd int, watches []Watch) error {
	root, err := os.OpenFile(fmt.Sprintf("/proc/%d/root", p.pid), unix.O_PATH, 0) // of which no watch tells
	if err != nil {
		return err
	}
	defer root.Close()
	return p.borrow(fd, func(fd int) error {
		for _, w := range watches {
			if err := w.add(fd, root); err != nil {
				return fmt.Errorf("watch %s: %w", w.Path, err)
			}
		}
		return nil
	})
}

func (w Watch) add(fd int, root *os.File) error {
	file, err := openBelow(root, w.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.IoctlSetInt(fd, InotifySetNextWD, w.WD); err != nil {
		return os.NewSyscallError("ioctl INOTIFY_IOC_SETNEXTWD", err)
	}
	wd, err := unix.InotifyAddWatch(fd, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), w.Mask)
	if err == nil && wd != w.WD {
		return fmt.Errorf("it has number %d, want %d: %w", wd, w.WD, unix.EEXIST)
	}
	return os.NewSyscallError("inotify_add_watch", err)
}

// FindWatched looks for what the watches of a process are on, without opening a file that the process can watch. What it has no path to, or a file with several names,
// is not found.
func FindWatched(pid int, watches []*Watch) error {
	if len(watches) == 0 {
		return nil
	}
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return err
	}
	defer file.Close()
	mounts, err := mountinfo.GetMountsFromReader(file, nil)
	if err != nil {
		return fmt.Errorf("read mounts of %d: %w", pid, err)
	}
	root := fmt.Sprintf("/proc/%d/root", pid)
	for _, m := range mounts {
		for _, w := range watches {
			if w.Path != "" || w.Device != unix.Mkdev(uint32(m.Major), uint32(m.Minor)) || w.at(root, m.Mountpoint) {
				continue
			}
			if err := w.find(root, m); err != nil {
				return err
			}
		}
	}
	return nil
}

// at notes the path if it leads to what the watch is on.
func (w *Watch) at(root, name string) bool {
	var st unix.Stat_t
	if unix.Lstat(root+name, &st) != nil || st.Dev != w.Device || st.Ino != w.Inode || st.Mode&unix.S_IFMT != unix.S_IFDIR && st.Nlink != 1 {
		return false
	}
	w.Path = name
	return true
}

// find asks the file system of a mount. An overlay does not open by handle, but its handle has in it that of the file in one of its layers, whose path ends with ours.
func (w *Watch) find(root string, m *mountinfo.Info) error {
	if m.FSType != "overlay" {
		name, err := openHandle(root+m.Mountpoint, w.HandleType, w.Handle)
		w.at(root, name)
		return err
	}
	if len(w.Handle) <= overlayHandle || w.Handle[overlayMagicAt] != overlayMagic {
		return nil
	}
	for _, layer := range layers(m.VFSOptions) {
		name, err := openHandle(layer, int32(w.Handle[overlayTypeAt]), w.Handle[overlayHandle:])
		if err != nil {
			return err
		}
		for name != "" {
			if w.at(root, path.Join(m.Mountpoint, name)) {
				return nil
			}
			_, name, _ = strings.Cut(strings.TrimPrefix(name, "/"), "/")
		}
	}
	return nil
}

// struct ovl_fh of fs/overlayfs/overlayfs.h: padding, version, magic, length, flags, type, uuid, handle.
const (
	overlayMagicAt, overlayTypeAt, overlayHandle = 4, 7, 24
	overlayMagic                                 = 0xfb
)

// layers are the directories of an overlay, the writable one first.
func layers(options string) (dirs []string) {
	for option := range strings.SplitSeq(options, ",") {
		name, value, _ := strings.Cut(option, "=")
		switch name {
		case "upperdir":
			dirs = append([]string{value}, dirs...)
		case "lowerdir":
			dirs = append(dirs, strings.Split(value, ":")...)
		case "lowerdir+":
			dirs = append(dirs, value)
		}
	}
	return dirs
}

// openHandle is the path, from the root of its mounts, of a file with that handle in the file system of a directory; empty: there is none.
func openHandle(dir string, kind int32, handle []byte) (name string, err error) {
	mount, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", nil // not even the directory can be opened: nothing is found there
	}
	fd, err := unix.OpenByHandleAt(mount, unix.NewFileHandle(kind, handle), unix.O_PATH|unix.O_CLOEXEC)
	if err != nil {
		return "", os.NewSyscallError("close", unix.Close(mount))
	}
	name, err = os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	if !path.IsAbs(name) {
		name = ""
	}
	return name, errors.Join(err, unix.Close(fd), unix.Close(mount))
}
