package linux

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// mountFlags are the options of fstab and of the runtime spec that the kernel takes as flags; the others are data for the file system.
var mountFlags = map[string]struct {
	clear bool
	flag  uintptr
}{
	"defaults": {false, 0}, "async": {true, unix.MS_SYNCHRONOUS}, "atime": {true, unix.MS_NOATIME}, "bind": {false, unix.MS_BIND},
	"dev": {true, unix.MS_NODEV}, "diratime": {true, unix.MS_NODIRATIME}, "dirsync": {false, unix.MS_DIRSYNC}, "exec": {true, unix.MS_NOEXEC},
	"noatime": {false, unix.MS_NOATIME}, "nodev": {false, unix.MS_NODEV}, "nodiratime": {false, unix.MS_NODIRATIME}, "noexec": {false, unix.MS_NOEXEC},
	"norelatime": {true, unix.MS_RELATIME}, "nostrictatime": {true, unix.MS_STRICTATIME}, "nosuid": {false, unix.MS_NOSUID},
	"rbind": {false, unix.MS_BIND | unix.MS_REC}, "relatime": {false, unix.MS_RELATIME}, "ro": {false, unix.MS_RDONLY}, "rw": {true, unix.MS_RDONLY},
	"strictatime": {false, unix.MS_STRICTATIME}, "suid": {true, unix.MS_NOSUID}, "sync": {false, unix.MS_SYNCHRONOUS},
}

// propagations are the options that set how mount events travel, applied after the mount.
var propagations = map[string]uintptr{
	"private": unix.MS_PRIVATE, "rprivate": unix.MS_PRIVATE | unix.MS_REC, "slave": unix.MS_SLAVE, "rslave": unix.MS_SLAVE | unix.MS_REC,
	"shared": unix.MS_SHARED, "rshared": unix.MS_SHARED | unix.MS_REC, "unbindable": unix.MS_UNBINDABLE, "runbindable": unix.MS_UNBINDABLE | unix.MS_REC,
}

// IsBind says whether a mount of this type, with these options, is of a file or a directory that the host has already.
func IsBind(kind string, options []string) bool {
	return kind == "bind" || slices.Contains(options, "bind") || slices.Contains(options, "rbind")
}

// ParseMountOptions splits mount options into the kernel's flags, the propagation flags (0: none was asked for) and the file system's own data.
func ParseMountOptions(options []string) (flags, propagation uintptr, data string) {
	var rest []string
	for _, option := range options {
		if f, ok := mountFlags[option]; ok {
			if f.clear {
				flags &^= f.flag
			} else {
				flags |= f.flag
			}
			continue
		}
		if p, ok := propagations[option]; ok {
			propagation = p
			continue
		}
		rest = append(rest, option)
	}
	return flags, propagation, strings.Join(rest, ",")
}

// Mount is mount(2) with a named error.
func Mount(source, target, fstype string, flags uintptr, data string) error {
	if err := unix.Mount(source, target, fstype, flags, data); err != nil {
		return fmt.Errorf("mount %s on %s: %w", cmp.Or(fstype, "propagation"), target, os.NewSyscallError("mount", err))
	}
	return nil
}

// Tmpfs mounts a tmpfs.
func Tmpfs(target, source string, flags uintptr, data string) error {
	return Mount(source, target, "tmpfs", flags, data)
}

// Bind mounts a file or directory a second time, with what is mounted below it if recursive. readonly is for the mount itself, not for those below;
// nosuid, nodev and the like stay as they are on the source.
func Bind(source, target string, readonly, recursive bool) error {
	flags := uintptr(unix.MS_BIND)
	if recursive {
		flags |= unix.MS_REC
	}
	if err := Mount(source, target, "bind", flags, ""); err != nil {
		return err
	}
	if !readonly {
		return nil
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, target, 0, &attr); err != nil {
		return errors.Join(fmt.Errorf("make %s read-only: %w", target, os.NewSyscallError("mount_setattr", err)), Unmount(target))
	}
	return nil
}

// Remount gives an existing mount, and not its file system, these flags in place of those that it has; access times stay when none is given.
func Remount(target string, flags uintptr) error {
	return Mount("", target, "bind", unix.MS_BIND|unix.MS_REMOUNT|flags, "")
}

// ReadonlyMounts makes all mounts that a process sees read-only, or none: one through which a file is open for writing cannot be.
func ReadonlyMounts(pid int) error {
	ns, err := NSFile(pid, "mnt")
	if err != nil {
		return err
	}
	defer ns.Close()
	return Enter([]NS{{unix.CLONE_NEWNS, ns}}, func() error {
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
		if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &attr); err != nil {
			return fmt.Errorf("make mounts of %d read-only: %w", pid, os.NewSyscallError("mount_setattr", err))
		}
		return nil
	})
}

// Unmount detaches a mount: it is out of sight at once and goes when its last user does. A path that is no mount is no error.
func Unmount(target string) error {
	err := unix.Unmount(target, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unmount %s: %w", target, os.NewSyscallError("umount2", err))
	}
	return nil
}

// PrivateMounts gives the calling thread a mount namespace of its own that follows the host's mounts but does not show its own to the host. Call it inside
// Enter: a process that is started there lives in the new namespace, and the thread that made it is thrown away.
func PrivateMounts() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", os.NewSyscallError("unshare", err))
	}
	return Mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, "")
}
