package linux

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// SeqpacketPair makes two connected sockets that keep message boundaries: what `criu swrk` speaks on.
func SeqpacketPair(name string) (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	// Only our end may be non-blocking: it is read under the Go runtime's poller.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(os.NewSyscallError("fcntl", err), unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name+"-peer"), nil
}

// keep is the id that leaves an id as it is: -1.
const keep = ^uintptr(0)

// StartAs starts a command whose real user and group are the given ones while its effective ones stay root's. A process may change the resource limits of
// another when its real, effective and saved ids are all its own real ids, also without CAP_SYS_RESOURCE (prlimit(2)). It must run inside Enter, whose
// thread is thrown away: the ids of that thread are changed, by raw calls because those of the library would change all threads of the process.
func StartAs(c *exec.Cmd, uid, gid int) error {
	for _, id := range []struct {
		call uintptr
		name string
		id   int
	}{{unix.SYS_SETRESGID, "setresgid", gid}, {unix.SYS_SETRESUID, "setresuid", uid}} {
		if _, _, errno := unix.RawSyscall(id.call, uintptr(id.id), keep, keep); errno != 0 {
			return fmt.Errorf("set real id %d: %w", id.id, os.NewSyscallError(id.name, errno))
		}
	}
	return c.Start()
}

// IsTmpfs says whether a path lies on a tmpfs.
func IsTmpfs(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, &os.PathError{Op: "statfs", Path: path, Err: err}
	}
	return st.Type == unix.TMPFS_MAGIC, nil
}
