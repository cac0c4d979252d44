package shim

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// setRlimits makes sure that every process has the hard limits of the spec. The soft ones are left alone: the app was booted with those
// of the spec, as they are part of the seed key, and may have raised its own since, as a JVM does.
func (a *attempt) setRlimits(context.Context) error {
	if len(a.spec.Process.Rlimits) == 0 {
		return nil
	}
	pids, err := a.processes(a.cgroup.Path)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		have, err := hardLimits(pid)
		if err != nil {
			return err
		}
		for _, want := range a.spec.Process.Rlimits {
			if hard, known := have[limitNames[want.Type]]; known && hard == want.Hard {
				continue
			}
			if err := setRlimit(pid, want); err != nil {
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

// hardLimits reads the hard limits of a process by the names in /proc/PID/limits. prlimit would need CAP_SYS_RESOURCE to read those of
// another user's process.
func hardLimits(pid int) (map[string]uint64, error) {
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "limits"))
	if err != nil {
		return nil, err
	}
	// Columns have a fixed width: name, soft, hard, units.
	const nameEnd, hardBegin = 26, 47
	limits := make(map[string]uint64)
	for line := range strings.Lines(string(data)) {
		if len(line) <= hardBegin {
			continue
		}
		value, _, _ := strings.Cut(strings.TrimSpace(line[hardBegin:]), " ")
		hard := ^uint64(0)
		if value != "unlimited" {
			if hard, err = strconv.ParseUint(value, 10, 64); err != nil {
				continue
			}
		}
		limits[strings.TrimSpace(line[:nameEnd])] = hard
	}
	return limits, nil
}

// setOOMScore sets the score of every process, when the spec names one.
func (a *attempt) setOOMScore(context.Context) error {
	score := a.spec.Process.OOMScoreAdj
	if score == nil {
		return nil
	}
	pids, err := a.processes(a.cgroup.Path)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := linux.SetOOMScore(pid, *score); err != nil {
			return fmt.Errorf("set OOM score of process %d: %w", pid, err)
		}
	}
	return nil
}
