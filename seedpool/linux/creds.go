package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Creds is what the kernel lets one thread do, from /proc/PID/task/TID/status.
type Creds struct {
	// Uids and Gids: real, effective, saved, file system.
	Uids, Gids [4]int
	Groups     []int
	// Capability sets, bit n is capability n.
	CapInh, CapPrm, CapEff, CapBnd, CapAmb uint64
	NoNewPrivs                             bool
	// Seccomp mode: 0 off, 1 strict, 2 filter.
	Seccomp int
}

// Threads lists the threads of a process.
func Threads(pid int) ([]int, error) {
	list, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		return nil, err
	}
	tids := make([]int, 0, len(list))
	for _, entry := range list {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, err
		}
		tids = append(tids, tid)
	}
	return tids, nil
}

// ReadCreds reads the credentials of one thread.
func ReadCreds(pid, tid int) (Creds, error) {
	path := fmt.Sprintf("/proc/%d/task/%d/status", pid, tid)
	data, err := os.ReadFile(path)
	if err != nil {
		return Creds{}, err
	}
	c, err := parseCreds(string(data))
	if err != nil {
		return c, fmt.Errorf("parse %s: %w", path, err)
	}
	return c, nil
}

func parseCreds(status string) (c Creds, err error) {
	caps := map[string]*uint64{"CapInh": &c.CapInh, "CapPrm": &c.CapPrm, "CapEff": &c.CapEff, "CapBnd": &c.CapBnd, "CapAmb": &c.CapAmb}
	for _, line := range strings.Split(status, "\n") {
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch name {
		case "Uid":
			c.Uids, err = fourIDs(value)
		case "Gid":
			c.Gids, err = fourIDs(value)
		case "Groups":
			c.Groups, err = ids(value)
		case "NoNewPrivs":
			c.NoNewPrivs = value == "1"
		case "Seccomp":
			c.Seccomp, err = strconv.Atoi(value)
		default:
			if set := caps[name]; set != nil {
				*set, err = strconv.ParseUint(value, 16, 64)
			}
		}
		if err != nil {
			return c, fmt.Errorf("line %q: %w", line, err)
		}
	}
	return c, nil
}

func fourIDs(value string) (four [4]int, err error) {
	list, err := ids(value)
	if err != nil || len(list) != len(four) {
		return four, fmt.Errorf("%d numbers, want 4: %v", len(list), err)
	}
	copy(four[:], list)
	return four, nil
}

func ids(value string) ([]int, error) {
	fields := strings.Fields(value)
	list := make([]int, 0, len(fields))
	for _, field := range fields {
		id, err := strconv.Atoi(field)
		if err != nil {
			return nil, err
		}
		list = append(list, id)
	}
	return list, nil
}

// HasCapability says whether the calling process has a capability (a CAP_* number) in its effective set.
func HasCapability(number int) (bool, error) {
	c, err := ReadCreds(unix.Getpid(), unix.Getpid())
	if err != nil {
		return false, err
	}
	return c.CapEff&(1<<number) != 0, nil
}
