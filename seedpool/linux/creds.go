package linux

import (
	"errors"
	"fmt"
	"io"
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
		return nil, fmt.Errorf("list threads of %d: %w", pid, err)
	}
	tids := make([]int, 0, len(list))
	for _, entry := range list {
		tid, err := strconv.Atoi(entry.Name())
		if err != nil {
			return nil, fmt.Errorf("list threads of %d: %w", pid, err)
		}
		tids = append(tids, tid)
	}
	return tids, nil
}

// statusLimit is above what /proc/PID/status ever is: its longest line lists groups, of which there are NGROUPS_MAX.
const statusLimit = 1 << 20

// statusUsual is above what it is for processes that are in few groups.
const statusUsual = 8 << 10

// ReadCreds reads the credentials of one thread. A line that the kernel does not show is an error, but for seccomp's, which kernels without it lack.
func ReadCreds(pid, tid int) (Creds, error) {
	path := fmt.Sprintf("/proc/%d/task/%d/status", pid, tid)
	var usual [statusUsual]byte
	status, err := readProc(path, usual[:])
	if errors.Is(err, io.ErrShortBuffer) {
		status, err = readProc(path, make([]byte, statusLimit))
	}
	if err != nil {
		return Creds{}, fmt.Errorf("read credentials: %w", err)
	}
	c, err := parseCreds(string(status))
	if err != nil {
		return Creds{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return c, nil
}

// credsLines are the lines of status that hold credentials, in the kernel's order (fs/proc/array.c).
var credsLines = []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"}

func parseCreds(status string) (c Creds, err error) {
	missing := credsLines
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		if len(missing) == 0 || name != missing[0] {
			continue
		}
		missing = missing[1:]
		if err := c.set(name, strings.TrimSpace(value)); err != nil {
			return c, fmt.Errorf("line %q: %w", line, err)
		}
	}
	if len(missing) > 0 && missing[0] != "Seccomp" {
		return c, fmt.Errorf("no line %q", missing[0])
	}
	return c, nil
}

// set takes the value of one line.
func (c *Creds) set(name, value string) (err error) {
	switch name {
	case "Uid":
		return four(&c.Uids, value)
	case "Gid":
		return four(&c.Gids, value)
	case "Groups":
		c.Groups, err = ids(value)
	case "CapInh":
		return bits(&c.CapInh, value)
	case "CapPrm":
		return bits(&c.CapPrm, value)
	case "CapEff":
		return bits(&c.CapEff, value)
	case "CapBnd":
		return bits(&c.CapBnd, value)
	case "CapAmb":
		return bits(&c.CapAmb, value)
	case "NoNewPrivs":
		c.NoNewPrivs, err = strconv.ParseBool(value)
	case "Seccomp":
		c.Seccomp, err = strconv.Atoi(value)
	}
	return err
}

func bits(set *uint64, value string) (err error) {
	*set, err = strconv.ParseUint(value, 16, 64)
	return err
}

func four(to *[4]int, value string) error {
	list, err := ids(value)
	if err != nil {
		return err
	}
	if len(list) != len(to) {
		return fmt.Errorf("%d numbers, want %d", len(list), len(to))
	}
	copy(to[:], list)
	return nil
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
