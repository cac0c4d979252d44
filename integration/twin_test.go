package integration

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/integration/stack"
)

// TestACloneIsWhatWouldHaveBeenRestored compares two idle containers of one seed, one cloned and one restored by CRIU, in all that /proc tells of a process.
func TestACloneIsWhatWouldHaveBeenRestored(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Cloning, "python-demo", "node-demo", "tomcat-demo", "redis-demo")
	for _, app := range []struct{ name, ready string }{
		{"python-demo", "http://:8080/"}, {"node-demo", "http://:8080/"}, {"tomcat-demo", "http://:8080/"}, {"redis-demo", "tcp://:6379"},
	} {
		t.Run(app.name, func(t *testing.T) {
			seed := baked(t, s, app.name, app.name, "--ready", app.ready, "--seccomp")
			setPool(t, s, seed, 1) // so that the template stands
			setPool(t, s, seed, 0)
			clone, restored := app.name+"-fork", app.name+"-restore"
			run(t, s, clone, app.name, "--seccomp")
			wantRung(t, s, clone, "fork")
			kill(t, templateProcess(t, s, "zygote"))
			run(t, s, restored, app.name, "--seccomp")
			wantRung(t, s, restored, "restore")
			// Both have things to do when they wake, which timers began.
			var diff string
			for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
				of := stateOf(t, pid(t, s, clone))
				of.dropStub(t)
				if diff = cmp.Diff(stateOf(t, pid(t, s, restored)), of); diff == "" {
					break
				}
			}
			if diff != "" {
				t.Errorf("the clone differs from what CRIU restores:\n%s", diff)
			}
			remove(t, s, clone)
			remove(t, s, restored)
			if _, err := s.Sprout(t.Context(), "seed", "rm", seed); err != nil {
				t.Error(err)
			}
		})
	}
}

// state is what /proc tells of a process, each line under what it is about.
type state map[string]string

// inodes are those of pipes, sockets and namespaces: no two processes have the same.
var inodes = regexp.MustCompile(`\[\d+\]`)

// statusLines are what must be equal of each thread. TracerPid and the counters of memory and switches are not.
var statusLines = []string{
	"Name", "Umask", "Uid", "Gid", "Groups", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp",
	"Seccomp_filters", "Speculation_Store_Bypass", "Cpus_allowed", "Mems_allowed", "THP_enabled",
}

func stateOf(t *testing.T, pid int) state {
	t.Helper()
	st := make(state)
	read := func(path ...string) string {
		data, err := os.ReadFile(filepath.Join(append([]string{"/proc", strconv.Itoa(pid)}, path...)...))
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	for _, file := range []string{"limits", "oom_score_adj", "environ", "cmdline", "auxv", "personality", "coredump_filter", "timers", "loginuid", "timerslack_ns"} {
		st[file] = read(file)
	}
	for _, link := range []string{"cwd", "root", "exe"} {
		target, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, link))
		if err != nil {
			t.Fatal(err)
		}
		st[link] = target
	}
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		status := lines(read("task", task.Name(), "status"))
		inside := strings.Fields(status["NSpid"])
		key := "thread " + inside[len(inside)-1]
		for _, line := range statusLines {
			st[key+" "+line] = status[line]
		}
		// The system call in which it waits, and the program counter. What it waits for, and how long, changes while an app is idle.
		if at := strings.Fields(read("task", task.Name(), "syscall")); len(at) > 1 {
			st[key+" at"] = at[0] + " " + at[len(at)-1]
		}
	}
	st.addMappings(read("smaps"))
	st.addFiles(t, pid)
	return st
}

// lines are those of a file in which each has a name.
func lines(text string) map[string]string {
	all := make(map[string]string)
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			all[name] = strings.TrimSpace(value)
		}
	}
	return all
}

// addMappings adds each mapping with its rights, its file, and what the kernel was told of it.
func (s state) addMappings(smaps string) {
	key := ""
	for line := range strings.Lines(smaps) {
		fields := strings.Fields(line)
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-") && !strings.HasSuffix(fields[0], ":"):
			key = "mapping " + fields[0]
			s[key] = strings.Join(append([]string{fields[1], fields[2]}, fields[5:]...), " ")
		case fields[0] == "VmFlags:":
			// A template's mappings must be copied by fork, whatever the app said: a clone's own forks copy them too.
			flags := slices.DeleteFunc(fields[1:], func(flag string) bool { return flag == "dc" })
			s[key] += " " + strings.Join(flags, " ")
		}
	}
}

// dropStub takes out the one thing that a clone has and a restored process has not: the code that made it what it is, with its stacks.
func (s state) dropStub(t *testing.T) {
	t.Helper()
	const code, stacks = "r-xp 00000000 rd ex mr mw me ac", "rw-p 00000000 rd wr mr mw me ac"
	for name, what := range s {
		var start, end uint64
		if _, err := fmt.Sscanf(name, "mapping %x-%x", &start, &end); err != nil || what != code {
			continue
		}
		for other, beside := range s {
			if strings.HasPrefix(other, fmt.Sprintf("mapping %x-", end)) && beside == stacks {
				delete(s, name)
				delete(s, other)
				return
			}
		}
	}
	t.Error("the clone has no stub: is it one?")
}

// addFiles adds each descriptor with what it leads to, its position and its flags.
func (s state) addFiles(t *testing.T, pid int) {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	fds, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(dir, fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, fd.Name()))
		if err != nil {
			t.Fatal(err)
		}
		all := lines(string(info))
		s["fd "+fd.Name()] = fmt.Sprintf("%s pos %s flags %s", inodes.ReplaceAllString(target, "[]"), all["pos"], all["flags"])
	}
}
