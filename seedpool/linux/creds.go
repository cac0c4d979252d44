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

// ReadCreds reads the credentials of one thread. A line that the kernel does not show is an error, but for seccomp's, which kernels without it lack.
func ReadCreds(pid, tid int) (Creds, error) {
	path := fmt.Sprintf("/proc/%d/task/%d/status", pid, tid)
	data, err := os.ReadFile(path)
	if err != nil {
		return Creds{}, fmt.Errorf("read credentials: %w", err)
	}
	c, err := parseCreds(string(data))
	if err != nil {
		return Creds{}, fmt.Errorf("parse %s: %w", path, err)
	}
	return c, nil
}

func parseCreds(status string) (c Creds, err error) {
	wanted := map[string]func(value string) error{
		"Uid":    func(value string) error { return four(&c.Uids, value) },
		"Gid":    func(value string) error { return four(&c.Gids, value) },
		"Groups": func(value string) (err error) { c.Groups, err = ids(value); return err },
		"CapInh": func(value string) error { return bits(&c.CapInh, value) },
		"CapPrm": func(value string) error { return bits(&c.CapPrm, value) },
		"CapEff": func(value string) error { return bits(&c.CapEff, value) },
		"CapBnd": func(value string) error { return bits(&c.CapBnd, value) },
		"CapAmb": func(value string) error { return bits(&c.CapAmb, value) },
		"NoNewPrivs": func(value string) (err error) {
			c.NoNewPrivs, err = strconv.ParseBool(value)
			return err
		},
		"Seccomp": func(value string) (err error) { c.Seccomp, err = strconv.Atoi(value); return err },
	}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		parse, ok := wanted[name]
		if !ok {
			continue
		}
		if err := parse(strings.TrimSpace(value)); err != nil {
			return c, fmt.Errorf("line %q: %w", line, err)
		}
		delete(wanted, name)
	}
	delete(wanted, "Seccomp")
	for name := range wanted {
		return c, fmt.Errorf("no line %q", name)
	}
	return c, nil
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
