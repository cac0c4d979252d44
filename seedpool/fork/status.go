package fork

import (
	"fmt"
	"strconv"
	"strings"
)

// status is what is read of /proc/PID/task/TID/status.
type status struct {
	name string
	// tid in the process's own pid namespace.
	tid int
	// group and session likewise.
	group, session  int
	pending, shared uint64
	seccomp         int
	cpus            string
}

func parseStatus(text string) (s status, err error) {
	for line := range strings.Lines(text) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ":")
		value = strings.TrimPrefix(value, "\t")
		switch name {
		case "Name":
			s.name = unescape(value)
		case "NSpid":
			s.tid, err = innermost(value)
		case "NSpgid":
			s.group, err = innermost(value)
		case "NSsid":
			s.session, err = innermost(value)
		case "SigPnd":
			s.pending, err = strconv.ParseUint(value, 16, 64)
		case "ShdPnd":
			s.shared, err = strconv.ParseUint(value, 16, 64)
		case "Seccomp":
			s.seccomp, err = strconv.Atoi(value)
		case "Cpus_allowed":
			s.cpus = value
		}
		if err != nil {
			return s, fmt.Errorf("line %q: %w", line, err)
		}
	}
	if s.tid <= 0 {
		return s, fmt.Errorf("thread id %d", s.tid)
	}
	return s, nil
}

// innermost of the ids that a process has in its pid namespaces.
func innermost(ids string) (int, error) {
	return strconv.Atoi(ids[strings.LastIndexByte(ids, '\t')+1:])
}

// unescape undoes what the kernel does to a name: backslash and newline are escaped.
func unescape(name string) string { return strings.NewReplacer(`\\`, `\`, `\n`, "\n").Replace(name) }

// schedule is priority and policy of /proc/PID/task/TID/stat, comparable as text.
func schedule(stat string) (string, error) {
	at := strings.LastIndexByte(stat, ')')
	fields := strings.Fields(stat[at+1:])
	const first, nice, priority, policy = 3, 19, 40, 41 // as proc_pid_stat(5) counts; fields begins with the third
	if at < 0 || len(fields) <= policy-first {
		return "", fmt.Errorf("stat %q: too short", stat)
	}
	return fmt.Sprintf("nice %s, policy %s, priority %s", fields[nice-first], fields[policy-first], fields[priority-first]), nil
}
