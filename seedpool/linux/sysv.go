package linux

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// SysVObjects are the kinds of System V objects (shm, sem, msg) that there are in a process's IPC namespace; none if that is the caller's own, whose objects are others', too.
func SysVObjects(pid int) (kinds []string, err error) {
	own, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		return nil, err
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", pid))
	if err != nil || own == theirs {
		return nil, err
	}
	ns, err := NSFile(pid, "ipc")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = Enter([]NS{{unix.CLONE_NEWIPC, ns}}, func() error {
		for _, kind := range []string{"shm", "sem", "msg"} {
			list, err := os.ReadFile("/proc/sysvipc/" + kind)
			if err != nil {
				return err
			}
			if bytes.Count(list, []byte("\n")) > 1 { // the first line is a heading
				kinds = append(kinds, kind)
			}
		}
		return nil
	})
	return kinds, err
}
