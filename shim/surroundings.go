package shim

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// What a container has from the process that starts it, unless its spec says otherwise. A shim that the launcher has started has it from containerd. One that was
// idle has it from sproutd, which a service manager may have confined: with fewer capabilities in the bounding set a privileged container does not start, in
// another mount namespace it has other volumes.
var (
	inheritedStatus = []string{
		"Umask", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters",
		"Speculation_Store_Bypass", "SpeculationIndirectBranch", "SigIgn", "THP_enabled", "Cpus_allowed", "Mems_allowed",
	}
	inheritedLinks = []string{
		"root", "ns/cgroup", "ns/ipc", "ns/mnt", "ns/net", "ns/pid", "ns/pid_for_children", "ns/time", "ns/time_for_children", "ns/user", "ns/uts",
	}
	inheritedFiles = []string{"attr/current", "personality", "coredump_filter"}
	// RLIMIT_NOFILE is not among them, see sameFileLimit.
	inheritedLimits = []string{
		"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE", "RLIMIT_NICE",
		"RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
	}
)

// Fields of /proc/PID/stat behind the command's name, which is the second.
const (
	statNice   = 19 - 3
	statPolicy = 41 - 3
)

// resemble makes sure that containers get from this process what they would have got from a child of the launcher, process pid: resource limits are taken over, in
// all else the two must be alike already. An error leaves the container to a shim that the launcher starts itself.
func resemble(launcher int) error {
	own, err := surroundings("self")
	if err != nil {
		return err
	}
	its, err := surroundings(strconv.Itoa(launcher))
	if err != nil {
		return err
	}
	var differ []string
	for name, value := range its {
		if own[name] != value {
			differ = append(differ, fmt.Sprintf("%s is %q, the launcher's %q", name, own[name], value))
		}
	}
	if len(differ) > 0 {
		slices.Sort(differ)
		return fmt.Errorf("stand in for launcher: %s", strings.Join(differ, "; "))
	}
	if err := sameFileLimit(launcher); err != nil {
		return err
	}
	return takeLimits(launcher)
}

// surroundings reads what one process would pass on; what this kernel does not have is empty.
func surroundings(pid string) (map[string]string, error) {
	dir := filepath.Join("/proc", pid)
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return nil, fmt.Errorf("read surroundings: %w", err)
	}
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return nil, fmt.Errorf("read surroundings: %w", err)
	}
	// The command's name may hold anything, a parenthesis too.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) <= statPolicy {
		return nil, fmt.Errorf("read surroundings: %s/stat has %d fields", dir, len(fields)+2)
	}
	has := map[string]string{"nice": fields[statNice], "policy": fields[statPolicy]}
	lines := make(map[string]string)
	for line := range strings.Lines(string(status)) {
		name, value, _ := strings.Cut(line, ":")
		lines[name] = strings.TrimSpace(value)
	}
	for _, name := range inheritedStatus {
		has[name] = lines[name]
	}
	for _, name := range inheritedLinks {
		if has[name], err = os.Readlink(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read surroundings: %w", err)
		}
	}
	for _, name := range inheritedFiles {
		data, err := os.ReadFile(filepath.Join(dir, name))
		// Without a security module the kernel has the file and no answer.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.EINVAL) {
			return nil, fmt.Errorf("read surroundings: %w", err)
		}
		has[name] = string(data)
	}
	return has, nil
}

// sameFileLimit compares the limit of open files, of which only the hard one can be seen: a Go program raises its soft one to it, and gives its children the one
// that it found, which it tells nobody. Of two processes with one hard limit the soft ones are taken to be the same.
func sameFileLimit(launcher int) error {
	own, err := linux.GetRlimit(os.Getpid(), "RLIMIT_NOFILE")
	if err != nil {
		return err
	}
	its, err := linux.GetRlimit(launcher, "RLIMIT_NOFILE")
	if err != nil {
		return err
	}
	if own.Hard != its.Hard {
		return fmt.Errorf("stand in for launcher: hard limit of open files is %d, the launcher's %d: give sproutd's service that of containerd's", own.Hard, its.Hard)
	}
	return nil
}

// takeLimits takes over the other limits. To raise one needs CAP_SYS_RESOURCE.
func takeLimits(launcher int) error {
	for _, name := range inheritedLimits {
		own, err := linux.GetRlimit(os.Getpid(), name)
		if err != nil {
			return err
		}
		its, err := linux.GetRlimit(launcher, name)
		if err != nil {
			return err
		}
		if own == its {
			continue
		}
		if err := linux.SetRlimits(os.Getpid(), []linux.Rlimit{its}); err != nil {
			return fmt.Errorf("stand in for launcher: %w", err)
		}
	}
	return nil
}
