package fork

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// startTree runs the witness of trees, as the first process of its namespaces, and returns it and its children.
func startTree(t *testing.T) (sources []Source, log string) {
	t.Helper()
	log = filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	first := start(t, "/usr/bin/python3", "testdata/tree.py", log)
	sources = []Source{{PID: first}}
	children, err := linux.Children(first)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		sources = append(sources, Source{PID: pid})
	}
	return sources, log
}

func makeTree(t *testing.T) (template *Template, log string) {
	t.Helper()
	sources, log := startTree(t)
	template, err := NewTemplate(timeout(t), sources...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := template.Close(); err != nil {
			t.Error(err)
		}
	})
	return template, log
}

// said is what a worker of the witness says.
type said struct {
	Number, PID, Parent, Group, Session, UID, Heard, Told int
	Cwd, Ended                                            string
	Memory, Segment                                       bool
	Counts                                                []int
	Heart                                                 []any
}

// tell connects to a clone and returns what the worker that accepts says, nothing if it ends instead.
func tell(t *testing.T, pid int, word string) (s said) {
	t.Helper()
	ns, err := linux.NSFile(pid, "net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var conn net.Conn
	err = linux.Enter([]linux.NS{{File: ns}}, func() (err error) {
		conn, err = net.DialTimeout("tcp", "127.0.0.1:8080", 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(conn, word); err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(conn)
	if len(body) == 0 {
		return s
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(body, &s); err != nil {
		t.Fatalf("%q: %v", body, err)
	}
	return s
}

// both asks until both workers have answered.
func both(t *testing.T, pid int) (answers map[int]said) {
	t.Helper()
	answers = map[int]said{}
	for deadline := time.Now().Add(10 * time.Second); len(answers) < 2 && time.Now().Before(deadline); {
		a := tell(t, pid, "hello")
		answers[a.Number] = a
	}
	return answers
}

// treeCgroup is where clones of a tree begin.
func treeCgroup(t *testing.T) (cgroup linux.Cgroup, dir *os.File) {
	t.Helper()
	cgroup = linux.Cgroup{Path: fmt.Sprintf("/sprout-fork-tree-%d", os.Getpid())}
	if err := cgroup.Create(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := cgroup.Remove(); err != nil {
			t.Error(err)
		}
	})
	dir, err := cgroup.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = dir.Close() })
	return cgroup, dir
}

func TestATreeIsClonedWithItsRelationsAndWhatItShares(t *testing.T) {
	template, log := makeTree(t)
	cgroup, dir := treeCgroup(t)
	for n := range 3 {
		c, err := template.Clone(timeout(t), Sandbox{Proc: true, OwnNet: true, Cgroup: true}, Files{Cgroup: dir})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Discard() })
		pids, err := cgroup.Procs()
		if want := c.PIDs(); err != nil || len(pids) != 3 || !slices.Equal(slices.Sorted(slices.Values(want)), slices.Sorted(slices.Values(pids))) {
			t.Errorf("the cgroup has %v, %v; want %v", pids, err, want)
		}
		for _, pid := range c.PIDs() {
			if children := proc(t, pid, "task/%d/children", pid); (pid == c.PID) != (len(strings.Fields(children)) == 2) {
				t.Errorf("process %d has children %s", pid, children)
			}
		}
		release(t, c)
		for number, a := range both(t, c.PID) {
			// The sessions of a clone's processes have no number in it.
			want := said{Number: number, PID: template.children[number-1].program.PID, Parent: 1, Group: 1, UID: 33, Told: 2, Memory: true, Segment: true, Cwd: a.Cwd, Counts: a.Counts, Heard: a.Heard, Heart: []any{"alive", 0o100640, 9, 5}}
			if number == 2 {
				want.Group = want.PID
			}
			if fmt.Sprint(a) != fmt.Sprint(want) {
				t.Errorf("clone %d: %+v, want %+v", n, a, want)
			}
		}
		total := 0
		last := tell(t, c.PID, "hello")
		for _, count := range last.Counts {
			total += count
		}
		if last.Counts[1] == 0 || last.Counts[2] == 0 || last.Heard > total || last.Heard < 2 {
			t.Errorf("clone %d: the workers and init do not see what the others do: %+v", n, last)
		}
		tell(t, c.PID, "end 7")
		var ended string
		for deadline := time.Now().Add(5 * time.Second); ended == "" && time.Now().Before(deadline); {
			ended = tell(t, c.PID, "hello").Ended
		}
		if !slices.ContainsFunc(template.children, func(z *zygote) bool { return ended == fmt.Sprintf("[[%d, 7]]", z.program.PID) }) {
			t.Errorf("clone %d: init has waited for %q", n, ended)
		}
		if err := c.Process().Signal(syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := c.Process().Wait(timeout(t)); err != nil {
			t.Fatal(err)
		}
		if pids, err := cgroup.Procs(); err != nil || len(pids) > 0 {
			t.Errorf("after the end of its first process: %v, %v", pids, err)
		}
	}
	if written, err := os.ReadFile(log); err != nil || len(written) == 0 {
		t.Errorf("the log: %q, %v", written, err)
	}
}

func TestErrorAtAnyOpOfAChildLeavesNoProcessAndATemplateThatClones(t *testing.T) {
	template, _ := makeTree(t)
	cgroup, dir := treeCgroup(t)
	sandbox, files := Sandbox{Proc: true, OwnNet: true, Cgroup: true}, Files{Cgroup: dir}
	z := template.children[1]
	check := func(op string, err error) {
		t.Helper()
		var failed *OpError
		if !errors.As(err, &failed) || failed.Op != op || failed.Errno != syscall.ENOSYS {
			t.Errorf("failing op %q: %v", op, err)
		}
		ctx := timeout(t)
		if err := cgroup.WaitEmpty(ctx); err != nil {
			t.Fatalf("failing op %q left processes: %v", op, err)
		}
		for left := "?"; left != ""; time.Sleep(time.Millisecond) {
			if left = proc(t, z.zygotePID, "task/%d/children", z.zygotePID); ctx.Err() != nil {
				t.Fatalf("failing op %q left helpers: %s", op, left)
			}
		}
	}
	const noSuchCall = 0xfff
	memory := ptrace.NewMemory(z.zygotePID)
	for _, l := range z.program.program.lists {
		for n, op := range l.ops {
			if l.name != "clone" || op.NR == sysRead {
				break // the clone is ready, and nothing after it fails before its release
			}
			at := int64(z.program.program.labels[l.name] + uint64(n*opSize))
			write(t, memory, at, noSuchCall)
			c, err := template.Clone(timeout(t), sandbox, files)
			if c != nil {
				t.Errorf("a clone with %s/%d spoiled", l.name, n)
			}
			check(fmt.Sprintf("%s/%d %s", l.name, n, op.What), err)
			write(t, memory, at, op.NR)
		}
	}
	_, request, err := z.program.request(0, sandbox)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range request.lists[2:] {
		for n, op := range l.ops {
			if op.Flags&(FlagPoke|FlagIgnore) != 0 || op.NR == sysExitGroup {
				continue
			}
			check(fmt.Sprintf("%s/%d %s", l.name, n, op.What), spoiledChild(t, template, z, sandbox, files, request.labels[l.name]+uint64(n*opSize)-z.program.Request))
		}
	}
	c, err := template.Clone(timeout(t), sandbox, files)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Discard() })
	release(t, c)
	both(t, c.PID)
}

// spoiledChild makes a clone's first process, and a child whose request has an op that the kernel does not know.
func spoiledChild(t *testing.T, template *Template, z *zygote, s Sandbox, f Files, offset uint64) error {
	t.Helper()
	template.number++
	ns, err := template.copyIPC(&s, &f)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c := new(Clone)
	if _, err := template.make(timeout(t), c, template.number, s, template.files(f)); err != nil {
		t.Fatal(err)
	}
	packet, request, err := z.program.request(template.number, s)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(packet[8+offset:], 0xfff)
	f.init = c.process.File()
	files := template.files(f)
	child := new(Clone)
	if files[fdGate], child.gate, err = os.Pipe(); err != nil {
		t.Fatal(err)
	}
	c.children = append(c.children, child)
	if err := errors.Join(z.control.Send(packet, files...), files[fdGate].Close()); err != nil {
		t.Fatal(err)
	}
	_, err = z.attend(timeout(t), child, template.number, request)
	return errors.Join(err, c.Discard())
}

func TestATreeThatCannotBeClonedIsRefused(t *testing.T) {
	tree := func(change func(all []*Process)) []*Process {
		var all []*Process
		for n := range 3 {
			p := sample()
			p.PID, p.Group, p.Session, p.Member = 100+n, 1, 1, &Member{}
			p.Threads = []Thread{{Tid: 1 + n, Comm: "server"}}
			all = append(all, p)
		}
		all[0].Children = []int{101, 102}
		change(all)
		return all
	}
	for _, c := range []struct {
		name   string
		change func(all []*Process)
		want   Code
	}{
		{"workers in init's session", func([]*Process) {}, ""},
		{"workers with process groups", func(all []*Process) { all[1].Group, all[2].Group = 2, 3 }, ""},
		{"workers with sessions", func(all []*Process) { all[1].Group, all[1].Session, all[2].Group, all[2].Session = 2, 2, 3, 3 }, ""},
		{"a grandchild", func(all []*Process) { all[1].Children = []int{103} }, CodeChildren},
		{"a child that is not ours", func(all []*Process) { all[0].Children = []int{101, 102, 200} }, CodeChildren},
		{"one that is no child", func(all []*Process) { all[0].Children = []int{101} }, CodeChildren},
		{"a reaper", func(all []*Process) { all[2].Reaper = true }, CodeChildren},
		{"another's group", func(all []*Process) { all[1].Group = 3 }, CodeGroup},
		{"another's session", func(all []*Process) { all[1].Group, all[1].Session = 3, 3 }, CodeGroup},
		{"init in no session", func(all []*Process) { all[0].Session = 0 }, CodeGroup},
		{"init that is none", func(all []*Process) { all[0].Threads[0].Tid = 7 }, CodeNotInit},
	} {
		all := tree(c.change)
		list := judgeTree(all)
		if c.want == "" && len(list) > 0 || c.want != "" && (len(list) == 0 || list[0].Code != c.want) {
			t.Errorf("%s: %v, want %q", c.name, list, c.want)
		}
		if c.want == "" && all[0].Member.Leads != (all[1].Session == 2) {
			t.Errorf("%s: init has a session of its own: %v", c.name, all[0].Member.Leads)
		}
	}
}

func TestWhatProcessesOfATreeCannotShareIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		child string
		want  Code
	}{
		"a namespace of the child's": {"libc.unshare(0x4000000)", CodeRoot},
		"a grandchild":               {"os.fork()", CodeChildren},
		"an epoll instance":          {"pass", CodeEpoll},
	} {
		t.Run(name, func(t *testing.T) {
			code := "import ctypes, os, select, time\nlibc = ctypes.CDLL(None)\n"
			if c.want == CodeEpoll {
				code += "e = select.epoll()\n"
			}
			code += "if os.fork() == 0:\n    " + c.child + "\n    time.sleep(100)\ntime.sleep(0.2)\nprint('ready', flush=True)\ntime.sleep(100)\n"
			first := start(t, "/usr/bin/python3", "-c", code)
			children, err := linux.Children(first)
			if err != nil || len(children) != 1 {
				t.Fatalf("children %v, %v", children, err)
			}
			_, err = NewTemplate(timeout(t), Source{PID: first}, Source{PID: children[0]})
			var refused *RefusedError
			if !errors.As(err, &refused) || !slices.ContainsFunc(refused.Refusals, func(r Refusal) bool { return r.Code == c.want }) {
				t.Errorf("%v, want %s", err, c.want)
			}
			for _, pid := range []int{first, children[0]} {
				if state := field(proc(t, pid, "status"), "State"); strings.HasPrefix(strings.ToLower(state), "t") {
					t.Errorf("process %d is left %s", pid, state)
				}
			}
		})
	}
}

func TestSharedMemoryIsCoveredByTheFirstProcess(t *testing.T) {
	mapping := func(inode, from, to uint64) VMA {
		return VMA{Start: 0x1000, End: 0x1000 + to - from, Offset: from, Inode: inode, Perms: "rw-s", Path: "/dev/zero (deleted)"}
	}
	for _, c := range []struct {
		first []VMA
		child VMA
		want  bool
	}{
		{[]VMA{mapping(5, 0, 0x4000)}, mapping(5, 0x1000, 0x2000), true},
		{[]VMA{mapping(5, 0x2000, 0x4000), mapping(5, 0, 0x2000)}, mapping(5, 0x1000, 0x3000), true},
		{[]VMA{mapping(5, 0, 0x1000), mapping(5, 0x2000, 0x4000)}, mapping(5, 0, 0x3000), false},
		{[]VMA{mapping(6, 0, 0x4000)}, mapping(5, 0, 0x1000), false},
	} {
		if got := covers(c.first, c.child); got != c.want {
			t.Errorf("%v covers %v: %v", c.first, c.child, got)
		}
	}
}
