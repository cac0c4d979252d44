package linux

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Overlay mounts an overlay file system with the options of the snapshotter (lowerdir=…, upperdir=…, workdir=…). mount(2) takes one page of them: an
// image of very many layers is mounted layer by layer, which needs Linux 6.7.
func Overlay(target string, options []string) error {
	flags, _, data := ParseMountOptions(options)
	if len(data) < os.Getpagesize() {
		return Mount("overlay", target, "overlay", flags, data)
	}
	if err := overlayByLayer(target, flags, strings.Split(data, ",")); err != nil {
		return fmt.Errorf("mount overlay on %s: %w", target, err)
	}
	return nil
}

func overlayByLayer(target string, flags uintptr, options []string) (err error) {
	fsfd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("fsopen", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fsfd)) }()
	if flags&unix.MS_RDONLY != 0 {
		options = append(options, "ro")
	}
	for _, option := range options {
		if err := configure(fsfd, option); err != nil {
			return os.NewSyscallError("fsconfig "+option, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return os.NewSyscallError("fsconfig create", err)
	}
	mfd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, int(attributes(flags)))
	if err != nil {
		return os.NewSyscallError("fsmount", err)
	}
	defer func() { err = errors.Join(err, unix.Close(mfd)) }()
	return os.NewSyscallError("move_mount", unix.MoveMount(mfd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH))
}

// configure gives a file system that is being made one option.
func configure(fsfd int, option string) error {
	name, value, ok := strings.Cut(option, "=")
	switch {
	case !ok:
		return unix.FsconfigSetFlag(fsfd, name)
	case name != "lowerdir":
		return unix.FsconfigSetString(fsfd, name, value)
	}
	for layer := range strings.SplitSeq(value, ":") {
		if err := unix.FsconfigSetString(fsfd, "lowerdir+", layer); err != nil {
			return err
		}
	}
	return nil
}

// attributes are the flags of mount(2) that belong to the mount, in the numbers of fsmount.
func attributes(flags uintptr) (attr uint64) {
	for _, pair := range []struct {
		flag uintptr
		attr uint64
	}{
		{unix.MS_RDONLY, unix.MOUNT_ATTR_RDONLY},
		{unix.MS_NOSUID, unix.MOUNT_ATTR_NOSUID},
		{unix.MS_NODEV, unix.MOUNT_ATTR_NODEV},
		{unix.MS_NOEXEC, unix.MOUNT_ATTR_NOEXEC},
		{unix.MS_NOATIME, unix.MOUNT_ATTR_NOATIME},
		{unix.MS_NODIRATIME, unix.MOUNT_ATTR_NODIRATIME},
		{unix.MS_STRICTATIME, unix.MOUNT_ATTR_STRICTATIME},
	} {
		if flags&pair.flag != 0 {
			attr |= pair.attr
		}
	}
	return attr
}
