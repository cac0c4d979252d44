package linux

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// rlimits are the runtime spec's names of resource limits.
var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK, "RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE,
	"RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE, "RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS,
	"RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO, "RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// Rlimit is one resource limit by its runtime-spec name.
type Rlimit struct {
	Type       string
	Soft, Hard uint64
}

// SetRlimits gives a process resource limits; another user's process needs CAP_SYS_RESOURCE.
func SetRlimits(pid int, limits []Rlimit) error {
	for _, l := range limits {
		resource, ok := rlimits[l.Type]
		if !ok {
			return fmt.Errorf("set limit %s of %d: unknown limit", l.Type, pid)
		}
		if err := unix.Prlimit(pid, resource, &unix.Rlimit{Cur: l.Soft, Max: l.Hard}, nil); err != nil {
			return fmt.Errorf("set limit %s of %d: %w", l.Type, pid, os.NewSyscallError("prlimit", err))
		}
	}
	return nil
}

// GetRlimit reads one resource limit of a process.
func GetRlimit(pid int, name string) (Rlimit, error) {
	resource, ok := rlimits[name]
	if !ok {
		return Rlimit{}, fmt.Errorf("read limit %s of %d: unknown limit", name, pid)
	}
	var r unix.Rlimit
	if err := unix.Prlimit(pid, resource, nil, &r); err != nil {
		return Rlimit{}, fmt.Errorf("read limit %s of %d: %w", name, pid, os.NewSyscallError("prlimit", err))
	}
	return Rlimit{Type: name, Soft: r.Cur, Hard: r.Max}, nil
}

// SetOOMScore sets how readily the kernel takes a process when memory runs out: -1000 never, 1000 first.
func SetOOMScore(pid, score int) error {
	return os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(score)), 0)
}

// OOMScore reads what SetOOMScore sets.
func OOMScore(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
