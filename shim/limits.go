package shim

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// setRlimits makes sure that every process has the hard limits of the spec, and of those that it does not name none above ours, which a child of runc's would have. The soft
// ones are left alone: the app was booted with those of the spec, as they are part of the seed key, and may have raised its own since, as a JVM does.
func (a *attempt) setRlimits(context.Context) error {
	ours, err := limitsOf(os.Getpid())
	if err != nil {
		return err
	}
	pids, err := a.processes(a.cgroup.Path)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		have, err := limitsOf(pid)
		if err != nil {
			return err
		}
		for _, want := range a.spec.Process.Rlimits {
			if has, known := have[limitNames[want.Type]]; known && has.hard == want.Hard {
				continue
			}
			if err := setRlimit(pid, want); err != nil {
				return err
			}
		}
		for name, row := range limitNames {
			most := ours[row].hard
			if have[row].hard <= most || slices.ContainsFunc(a.spec.Process.Rlimits, func(l specs.POSIXRlimit) bool { return l.Type == name }) {
				continue
			}
			if err := setRlimit(pid, specs.POSIXRlimit{Type: name, Soft: min(have[row].soft, most), Hard: most}); err != nil {
				return err
			}
		}
	}
	return nil
}

func setRlimit(pid int, l specs.POSIXRlimit) error {
	return linux.SetRlimits(pid, []linux.Rlimit{{Type: l.Type, Soft: l.Soft, Hard: l.Hard}})
}

// limitNames are the names that /proc/PID/limits has for the spec's resource limits.
var limitNames = map[string]string{
	"RLIMIT_AS": "Max address space", "RLIMIT_CORE": "Max core file size", "RLIMIT_CPU": "Max cpu time", "RLIMIT_DATA": "Max data size",
	"RLIMIT_FSIZE": "Max file size", "RLIMIT_LOCKS": "Max file locks", "RLIMIT_MEMLOCK": "Max locked memory",
	"RLIMIT_MSGQUEUE": "Max msgqueue size", "RLIMIT_NICE": "Max nice priority", "RLIMIT_NOFILE": "Max open files",
	"RLIMIT_NPROC": "Max processes", "RLIMIT_RSS": "Max resident set", "RLIMIT_RTPRIO": "Max realtime priority",
	"RLIMIT_RTTIME": "Max realtime timeout", "RLIMIT_SIGPENDING": "Max pending signals", "RLIMIT_STACK": "Max stack size",
}

// limit is one resource limit of a process.
type limit struct{ soft, hard uint64 }

// limitsOf reads the limits of a process by the names in /proc/PID/limits. prlimit would need CAP_SYS_RESOURCE to read those of another user's process.
func limitsOf(pid int) (map[string]limit, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		return nil, err
	}
	// Columns have a fixed width: name, soft, hard, units.
	const nameEnd, hardBegin = 26, 47
	limits := make(map[string]limit)
	for line := range strings.Lines(string(data)) {
		if len(line) <= hardBegin {
			continue
		}
		soft, softErr := limitIn(line[nameEnd:hardBegin])
		hard, hardErr := limitIn(line[hardBegin:])
		if softErr == nil && hardErr == nil { // else it is the header
			limits[strings.TrimSpace(line[:nameEnd])] = limit{soft, hard}
		}
	}
	return limits, nil
}

// limitIn is the limit at the beginning of a column.
func limitIn(column string) (uint64, error) {
	value, _, _ := strings.Cut(strings.TrimSpace(column), " ")
	if value == "unlimited" {
		return ^uint64(0), nil
	}
	return strconv.ParseUint(value, 10, 64)
}

// setOOMScore gives every process the score of the spec. One that names none leaves it that of its runtime, which is ours, as far as we may: to lower one takes
// CAP_SYS_RESOURCE, and whoever has a higher one is only killed sooner.
func (a *attempt) setOOMScore(context.Context) error {
	ours, err := linux.OOMScore(os.Getpid())
	if err != nil {
		return err
	}
	named := a.spec.Process.OOMScoreAdj
	if named != nil {
		ours = *named
	}
	pids, err := a.processes(a.cgroup.Path)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		has, err := linux.OOMScore(pid)
		if err != nil {
			return fmt.Errorf("read OOM score of process %d: %w", pid, err)
		}
		if has == ours {
			continue
		}
		err = linux.SetOOMScore(pid, ours)
		if named == nil && has > ours && errors.Is(err, os.ErrPermission) {
			continue
		}
		if err != nil {
			return fmt.Errorf("set OOM score of process %d: %w", pid, err)
		}
	}
	return nil
}
