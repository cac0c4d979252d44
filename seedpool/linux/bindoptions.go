package linux

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// bindOptions are the options of a bind mount in the words of mount_setattr.
type bindOptions struct {
	recursive  bool
	top, below attrChange
	// propagations in the order given: "rslave", "shared" makes a slave that has slaves.
	propagations []mountChange
}

// attrChange collects attributes to set and to clear.
type attrChange struct {
	given      bool
	set, clear uint64
}

// mountChange is one call of mount_setattr; depth is AT_RECURSIVE or 0.
type mountChange struct {
	depth uint
	attr  unix.MountAttr
}

// bindAttrs are the attributes that are set (true) or cleared by an option. With an r before its name it is one for the mounts below too.
var bindAttrs = map[string]struct {
	set  bool
	attr uint64
}{
	"ro": {true, unix.MOUNT_ATTR_RDONLY}, "rw": {false, unix.MOUNT_ATTR_RDONLY},
	"nosuid": {true, unix.MOUNT_ATTR_NOSUID}, "suid": {false, unix.MOUNT_ATTR_NOSUID},
	"nodev": {true, unix.MOUNT_ATTR_NODEV}, "dev": {false, unix.MOUNT_ATTR_NODEV},
	"noexec": {true, unix.MOUNT_ATTR_NOEXEC}, "exec": {false, unix.MOUNT_ATTR_NOEXEC},
	"nosymfollow": {true, unix.MOUNT_ATTR_NOSYMFOLLOW}, "symfollow": {false, unix.MOUNT_ATTR_NOSYMFOLLOW},
	"nodiratime": {true, unix.MOUNT_ATTR_NODIRATIME}, "diratime": {false, unix.MOUNT_ATTR_NODIRATIME},
}

// bindATimes are the options for access times: three states, not flags. Those that only take one back mean the kernel's default, relatime.
var bindATimes = map[string]uint64{
	"relatime": unix.MOUNT_ATTR_RELATIME, "noatime": unix.MOUNT_ATTR_NOATIME, "strictatime": unix.MOUNT_ATTR_STRICTATIME,
	"atime": unix.MOUNT_ATTR_RELATIME, "norelatime": unix.MOUNT_ATTR_RELATIME, "nostrictatime": unix.MOUNT_ATTR_RELATIME,
}

// bindIgnored are options that belong to the file system and that the kernel ignores on a bind mount.
var bindIgnored = map[string]bool{
	"defaults": true, "sync": true, "async": true, "dirsync": true, "lazytime": true, "nolazytime": true, "iversion": true, "noiversion": true,
	"mand": true, "nomand": true, "silent": true, "loud": true,
}

// exclusive are the attributes that a mount has not, when one was named and this one was not (runc's remount).
const exclusive = unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW

func parseBindOptions(options []string) (bindOptions, error) {
	var b bindOptions
	for _, option := range options {
		plain, recursive := strings.CutPrefix(option, "r")
		switch flag, ok := propagations[option]; {
		case option == "rbind":
			b.recursive = true
		case option == "bind", bindIgnored[option]:
		case ok:
			b.propagate(flag)
		case b.top.add(option):
		case recursive && b.below.add(plain):
		default:
			return b, fmt.Errorf("unknown bind mount option %q", option)
		}
	}
	if len(b.propagations) == 0 {
		flag := uintptr(unix.MS_SLAVE)
		if b.recursive {
			flag |= unix.MS_REC
		}
		b.propagate(flag)
	}
	if b.top.given {
		b.top.clear |= exclusive &^ b.top.set
	}
	return b, nil
}

func (b *bindOptions) propagate(flag uintptr) {
	change := mountChange{attr: unix.MountAttr{Propagation: uint64(flag &^ unix.MS_REC)}}
	if flag&unix.MS_REC != 0 {
		change.depth = unix.AT_RECURSIVE
	}
	b.propagations = append(b.propagations, change)
}

// add applies one option; later ones win.
func (a *attrChange) add(option string) bool {
	if mode, ok := bindATimes[option]; ok {
		a.given = true
		a.clear |= unix.MOUNT_ATTR__ATIME
		a.set = a.set&^unix.MOUNT_ATTR__ATIME | mode
		return true
	}
	o, ok := bindAttrs[option]
	if !ok {
		return false
	}
	a.given = true
	if o.set {
		a.set, a.clear = a.set|o.attr, a.clear&^o.attr
	} else {
		a.set, a.clear = a.set&^o.attr, a.clear|o.attr
	}
	return true
}

// changes are the calls to make on the detached tree, in order.
func (b *bindOptions) changes() (list []mountChange) {
	if b.top.given {
		list = append(list, mountChange{0, unix.MountAttr{Attr_set: b.top.set, Attr_clr: b.top.clear}})
	}
	if b.below.given {
		list = append(list, mountChange{unix.AT_RECURSIVE, unix.MountAttr{Attr_set: b.below.set, Attr_clr: b.below.clear}})
	}
	return append(list, b.propagations...)
}
