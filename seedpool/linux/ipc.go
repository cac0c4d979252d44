package linux

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Segment is a System V shared memory segment; Mode has more than permissions if it is to be removed, is locked or has huge pages.
type Segment struct {
	Key, ID  int
	Size     uint64
	Mode     uint32
	UID, GID uint32
}

// IPC is what an IPC namespace has that a new one has not.
type IPC struct {
	Segments []Segment
	// Semaphores and Queues: there are any.
	Semaphores, Queues bool
	// Settings are files below /proc/sys with what was written to them.
	Settings map[string]string
}

// ReadIPC reads a process's IPC namespace; nothing if that is the caller's own, whose objects are others', too.
func ReadIPC(pid int) (all IPC, err error) {
	own, err := os.Readlink("/proc/self/ns/ipc")
	if err != nil {
		return all, err
	}
	theirs, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/ipc", pid))
	if err != nil || own == theirs {
		return all, err
	}
	usual, err := usualSettings()
	if err != nil {
		return all, err
	}
	err = enterIPC(pid, func() (err error) {
		if all.Settings, err = settings(); err != nil {
			return err
		}
		maps.DeleteFunc(all.Settings, func(name, value string) bool { return usual[name] == value })
		if all.Segments, err = segments(); err != nil {
			return err
		}
		if all.Semaphores, err = some("sem"); err != nil {
			return err
		}
		all.Queues, err = some("msg")
		return err
	})
	return all, err
}

func enterIPC(pid int, fn func() error) error {
	ns, err := NSFile(pid, "ipc")
	if err != nil {
		return err
	}
	defer ns.Close()
	return Enter([]NS{{unix.CLONE_NEWIPC, ns}}, fn)
}

// ipcSettings are those of an IPC namespace (ipc/ipc_sysctl.c, ipc/mq_sysctl.c), but for the numbers that objects are to have.
var ipcSettings = strings.Fields(`kernel/shmmax kernel/shmall kernel/shmmni kernel/shm_rmid_forced kernel/msgmax kernel/msgmni kernel/msgmnb kernel/sem
	fs/mqueue/queues_max fs/mqueue/msg_max fs/mqueue/msgsize_max fs/mqueue/msg_default fs/mqueue/msgsize_default`)

const sysctls = "/proc/sys/"

// settings reads those of the calling thread's namespace. A kernel without message queues has not all.
func settings() (map[string]string, error) {
	all := make(map[string]string)
	for _, name := range ipcSettings {
		value, err := os.ReadFile(sysctls + name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		all[name] = string(value)
	}
	return all, nil
}

// usualSettings are those of a new namespace.
func usualSettings() (all map[string]string, err error) {
	err = Enter(nil, func() error {
		if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		all, err = settings()
		return err
	})
	return all, err
}

// some says whether there is more than the heading in a list of the calling thread's namespace.
func some(kind string) (bool, error) {
	list, err := os.ReadFile("/proc/sysvipc/" + kind)
	return bytes.Count(list, []byte("\n")) > 1, err
}

// segments reads the list of the calling thread's namespace: key, id, mode, size, two processes, how often it is attached, owner, creator, and times.
func segments() (list []Segment, err error) {
	data, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return nil, err
	}
	_, data, _ = bytes.Cut(data, []byte("\n"))
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		const owner, least = 7, 9
		if len(fields) < least {
			return nil, fmt.Errorf("segment %q: %w", line, unix.EPROTO)
		}
		var numbers [least]uint64
		for n, field := range fields[:least] {
			base := 10
			if n == 2 {
				base = 8
			}
			if n == 0 { // printed with its sign
				key, err := strconv.ParseInt(field, base, 32)
				if err != nil {
					return nil, err
				}
				numbers[n] = uint64(key)
				continue
			}
			if numbers[n], err = strconv.ParseUint(field, base, 64); err != nil {
				return nil, err
			}
		}
		list = append(list, Segment{int(numbers[0]), int(numbers[1]), numbers[3], uint32(numbers[2]), uint32(numbers[owner]), uint32(numbers[owner+1])})
	}
	return list, nil
}

// Copy makes a new IPC namespace with the settings and with copies of the segments, under the same numbers, of a process's, of which this was read.
func (i IPC) Copy(pid int) (ns *os.File, err error) {
	contents := make([][]byte, len(i.Segments))
	err = enterIPC(pid, func() error {
		for n, s := range i.Segments {
			memory, err := unix.SysvShmAttach(s.ID, 0, unix.SHM_RDONLY)
			if err != nil {
				return fmt.Errorf("attach segment %d: %w", s.ID, os.NewSyscallError("shmat", err))
			}
			contents[n] = bytes.Clone(memory)
			if err := unix.SysvShmDetach(memory); err != nil {
				return os.NewSyscallError("shmdt", err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = Enter(nil, func() error {
		if err := unix.Unshare(unix.CLONE_NEWIPC); err != nil {
			return os.NewSyscallError("unshare", err)
		}
		for name, value := range i.Settings {
			if err := os.WriteFile(sysctls+name, []byte(value), 0); err != nil {
				return err
			}
		}
		for n, s := range i.Segments {
			if err := s.make(contents[n]); err != nil {
				return fmt.Errorf("make segment %d: %w", s.ID, err)
			}
		}
		ns, err = os.Open("/proc/thread-self/ns/ipc")
		return err
	})
	return ns, err
}

// make makes a segment in the calling thread's namespace.
func (s Segment) make(content []byte) error {
	if err := os.WriteFile(sysctls+"kernel/shm_next_id", []byte(strconv.Itoa(s.ID)), 0); err != nil {
		return err
	}
	id, err := unix.SysvShmGet(s.Key, int(s.Size), unix.IPC_CREAT|unix.IPC_EXCL|int(s.Mode))
	if err != nil {
		return os.NewSyscallError("shmget", err)
	}
	if id != s.ID {
		return fmt.Errorf("it has number %d: %w", id, unix.EEXIST)
	}
	memory, err := unix.SysvShmAttach(id, 0, 0)
	if err != nil {
		return os.NewSyscallError("shmat", err)
	}
	copy(memory, content)
	desc := unix.SysvShmDesc{Perm: unix.SysvIpcPerm{Uid: s.UID, Gid: s.GID, Mode: s.Mode}}
	_, err = unix.SysvShmCtl(id, unix.IPC_SET, &desc)
	return errors.Join(os.NewSyscallError("shmctl IPC_SET", err), os.NewSyscallError("shmdt", unix.SysvShmDetach(memory)))
}
