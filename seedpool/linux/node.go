package linux

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// nodeKinds are the runtime spec's letters for kinds of device nodes.
var nodeKinds = map[string]uint32{"c": unix.S_IFCHR, "u": unix.S_IFCHR, "b": unix.S_IFBLK, "p": unix.S_IFIFO}

// MakeNode makes a device node of a kind: c or u character, b block, p named pipe.
func MakeNode(path, kind string, major, minor int64) error {
	mode, ok := nodeKinds[kind]
	if !ok {
		return fmt.Errorf("make node %s: unknown kind %q", path, kind)
	}
	if err := unix.Mknod(path, mode|0o600, int(unix.Mkdev(uint32(major), uint32(minor)))); err != nil {
		return &os.PathError{Op: "mknod", Path: path, Err: err}
	}
	return nil
}
