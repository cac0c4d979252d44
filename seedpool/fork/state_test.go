package fork

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

	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// inspectAgain reads a released clone as if it were to be a template, with a scratch page that it already has.
func inspectAgain(t *testing.T, pid int, l Layout) (*Process, []Refusal) {
	t.Helper()
	tracer := ptrace.NewTracer()
	defer tracer.Close()
	threads, err := tracer.SeizeAll(timeout(t), pid, ptrace.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, refusals, err := Inspect(timeout(t), Subject{threads, l.Base + codeSize, [2]uint64{l.Base, l.Base + regionSize}, nil})
	if err != nil {
		t.Fatal(err)
	}
	return p[0], refusals
}

var number = regexp.MustCompile(`\d+`)

// comparable takes out what is meant to differ: inode numbers of what is the clone's own.
func comparable(p *Process) *Process {
	p.PID, p.Children, p.Group, p.Session = 0, nil, 0, 0
	for n := range p.Files {
		f := &p.Files[n]
		f.Holder = 0
		if f.Kind != KindRegular && f.Kind != KindDir {
			f.Inode, f.Link.Peer, f.Path = 0, 0, number.ReplaceAllString(f.Path, "n")
		}
		f.Timer.Value = 0
		for m := range f.Watches {
			f.Watches[m].Inode = 0
		}
		slices.SortFunc(f.Watches, func(a, b Watch) int { return a.FD - b.FD })
	}
	for n := range p.Timers {
		p.Timers[n].Tid = 0
	}
	for n := range p.VMAs {
		v := &p.VMAs[n]
		if v.shared() {
			v.Inode, v.Path, v.Device = 0, "", ""
		}
		v.Flags = slices.DeleteFunc(v.Flags, func(f string) bool { return f == "dc" })
	}
	return p
}

// The clone is read at the gate, where its threads are in the stub, and their registers are those of the frames: registers are compared by the test below.
func TestCloneDiffersFromItsTemplateOnlyWhereItMust(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	c := makeClone(t, template)
	ofTemplate, refusals := inspectAgain(t, template.pid, template.program.Layout)
	if len(refusals) != 1 || refusals[0].Code != CodeChildren {
		t.Errorf("the template is refused for more than its zygote: %v", refusals)
	}
	before := comparable(ofTemplate)
	release(t, c)
	for deadline := time.Now().Add(5 * time.Second); masks(t, c.PID) != masks(t, template.pid) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond) // a thread that is still in the stub blocks all signals
	}
	after, refusals := inspectAgain(t, c.PID, template.program.Layout)
	if len(refusals) > 0 {
		t.Errorf("the clone could not be cloned: %v", refusals)
	}
	after = comparable(after)
	for n := range before.Threads {
		// A running thread has gone on since.
		for _, p := range []*Process{before, after} {
			p.Threads[n].Regs = ptrace.Regs{Fs_base: p.Threads[n].Regs.Fs_base}
			p.Threads[n].XState = nil
		}
	}
	slices.SortFunc(after.Threads[1:], func(a, b Thread) int { return a.Tid - b.Tid })
	streams := func(f File) bool { return f.FD < standardStreams }
	before.Files, after.Files = slices.DeleteFunc(before.Files, streams), slices.DeleteFunc(after.Files, streams)
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("the clone differs from its template: %s", diff)
	}
	for _, line := range []string{"Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "SigIgn", "SigCgt", "Umask", "Cpus_allowed"} {
		if a, b := field(proc(t, template.pid, "status"), line), field(proc(t, c.PID, "status"), line); a != b {
			t.Errorf("%s is %q, of the template %q", line, b, a)
		}
	}
	for _, file := range []string{"limits", "oom_score_adj", "environ", "cmdline", "auxv", "personality", "coredump_filter"} {
		if a, b := proc(t, template.pid, "%s", file), proc(t, c.PID, "%s", file); a != b {
			t.Errorf("%s is %q, of the template %q", file, b, a)
		}
	}
}

func field(status, name string) string {
	for line := range strings.Lines(status) {
		if value, ok := strings.CutPrefix(line, name+":"); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// masks are the blocked signals of all threads.
func masks(t *testing.T, pid int) string {
	var all []string
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		all = append(all, field(proc(t, pid, "task/%s/status", task.Name()), "SigBlk"))
	}
	return strings.Join(all, " ")
}

func TestTemplateIsStoppedUntracedAndOneZygoteIsAwake(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	for deadline := time.Now().Add(5 * time.Second); !allStopped(t, template.pid) && time.Now().Before(deadline); {
		time.Sleep(time.Millisecond)
	}
	cpu := schedstat(t, template.pid)
	for range 3 {
		release(t, makeClone(t, template))
	}
	status := proc(t, template.pid, "status")
	if state, tracer := field(status, "State"), field(status, "TracerPid"); !strings.HasPrefix(state, "T") || tracer != "0" {
		t.Errorf("template: state %s, tracer %s", state, tracer)
	}
	if now := schedstat(t, template.pid); now != cpu {
		t.Errorf("the template has run: %s, was %s", now, cpu)
	}
	for _, fd := range []int{template.program.Control, template.program.Peer} {
		if _, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", template.pid, fd)); err == nil {
			t.Errorf("the template has descriptor %d", fd)
		}
	}
}

func allStopped(t *testing.T, pid int) bool {
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return !slices.ContainsFunc(tasks, func(task os.DirEntry) bool {
		return !strings.HasPrefix(field(proc(t, pid, "task/%s/status", task.Name()), "State"), "T")
	})
}

// schedstat is the time that all threads have run.
func schedstat(t *testing.T, pid int) string {
	var all []string
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, task := range tasks {
		tid, err := strconv.Atoi(filepath.Base(task))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.Fields(proc(t, pid, "task/%d/schedstat", tid))[0])
	}
	return strings.Join(all, " ")
}
