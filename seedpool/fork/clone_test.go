package fork

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/ptrace"
)

// children of the zygote: every clone that is alive.
func children(t testing.TB, template *Template) string {
	t.Helper()
	zygote := zygotePID(t, template)
	return strings.TrimSpace(proc(t, zygote, "task/%d/children", zygote))
}

func zygotePID(t testing.TB, template *Template) int {
	t.Helper()
	var pid int
	if _, err := fmt.Sscan(proc(t, template.pid, "task/%d/children", template.pid), &pid); err != nil {
		t.Fatal(err)
	}
	return pid
}

func descriptors(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestTwentyClonesInARowTenAlive(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	zygote := zygotePID(t, template)
	ours, theirs := 0, 0
	var alive []*Clone
	var took []time.Duration
	for n := range 20 {
		if n == 10 {
			for _, c := range alive {
				if err := c.Discard(); err != nil {
					t.Error(err)
				}
			}
			alive = nil
			ours, theirs = descriptors(t, os.Getpid()), descriptors(t, zygote)
		}
		began := time.Now()
		c := makeClone(t, template)
		took = append(took, time.Since(began))
		release(t, c)
		alive = append(alive, c)
		if got := ask(t, c.PID); got.Count != 1 || got.Shared != "seed" || got.Alive != 6 {
			t.Errorf("clone %d: %+v", n, got)
		}
	}
	for n, c := range alive {
		if got := ask(t, c.PID); got.Count != 2 || got.Early != 0 {
			t.Errorf("clone %d of ten alive: %+v", n, got)
		}
	}
	for _, c := range alive {
		if err := c.Discard(); err != nil {
			t.Error(err)
		}
	}
	if left := children(t, template); left != "" {
		t.Errorf("processes are left: %s", left)
	}
	if now := descriptors(t, os.Getpid()); now > ours {
		t.Errorf("we have %d descriptors, had %d", now, ours)
	}
	if now := descriptors(t, zygote); now != theirs {
		t.Errorf("the zygote has %d descriptors, had %d", now, theirs)
	}
	slices.Sort(took)
	t.Logf("a clone took %v (median of %d), %v at most", took[len(took)/2], len(took), took[len(took)-1])
}

func TestErrorAtAnyOpLeavesNoProcessAndATemplateThatClones(t *testing.T) {
	template := makeDropping(t, startWitness(t), &Origin{Filter: forbid(81)})
	memory := ptrace.NewMemory(zygotePID(t, template))
	const noSuchCall = 0xfff
	spoiled := 0
	for _, l := range template.program.program.lists {
		if l.name != "clone" && !strings.HasPrefix(l.name, "thread") {
			continue
		}
		for n, op := range l.ops {
			if op.Flags&FlagPoke != 0 {
				continue
			}
			if op.NR == sysRead || op.What == "wait at the barrier" {
				break // the clone is ready, and nothing after it fails before its release
			}
			at := int64(template.program.program.labels[l.name] + uint64(n*opSize))
			write(t, memory, at, noSuchCall)
			c, err := template.Clone(timeout(t), Sandbox{OwnNet: true}, Files{})
			checkSpoiled(t, template, c, err, fmt.Sprintf("%s/%d %s", l.name, n, op.What))
			write(t, memory, at, op.NR)
			spoiled++
		}
	}
	_, request, err := template.program.request(0, spoiledSandbox)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range request.lists[1:] {
		for n, op := range l.ops {
			if op.Flags&FlagPoke != 0 {
				continue
			}
			c, err := cloneSpoiled(t, template, request.labels[l.name]+uint64(n*opSize)-template.program.Request)
			want := fmt.Sprintf("%s/%d %s", l.name, n, op.What)
			if op.NR == sysClone3 {
				want = "clone the template"
			}
			checkSpoiled(t, template, c, err, want)
			spoiled++
		}
	}
	c := makeClone(t, template)
	release(t, c)
	if got := ask(t, c.PID); got.Count != 1 {
		t.Errorf("after %d failures: %+v", spoiled, got)
	}
	t.Logf("%d ops failed, one after the other", spoiled)
}

func write(t *testing.T, memory ptrace.Memory, at int64, nr uint64) {
	t.Helper()
	if _, err := memory.WriteAt(binary.LittleEndian.AppendUint64(nil, nr), at); err != nil {
		t.Fatal(err)
	}
}

var spoiledSandbox = Sandbox{Hostname: "x", Root: true, Proc: true, OwnNet: true, Mounts: []Mount{{Source: "tmpfs", Target: "/mnt", Type: "tmpfs", Data: "size=1m"}}}

// cloneSpoiled is Clone with an op of the request made unknown to the kernel.
func cloneSpoiled(t *testing.T, template *Template, offset uint64) (*Clone, error) {
	t.Helper()
	template.number++
	packet, request, err := template.program.request(template.number, spoiledSandbox)
	if err != nil {
		t.Fatal(err)
	}
	binary.LittleEndian.PutUint64(packet[8+offset:], 0xfff)
	gate, ours, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	c := &Clone{gate: ours}
	tree, _ := overlay(t)
	files := template.files(Files{Root: tree})
	files[fdGate] = gate
	if err := errors.Join(template.control.Send(packet, files...), gate.Close()); err != nil {
		t.Fatal(err)
	}
	_, err = template.attend(timeout(t), c, template.number, request)
	return nil, errors.Join(err, c.Discard())
}

func checkSpoiled(t *testing.T, template *Template, c *Clone, err error, op string) {
	t.Helper()
	var failed *OpError
	if c != nil || !errors.As(err, &failed) || failed.Op != op || failed.Errno != syscall.ENOSYS {
		t.Errorf("failing op %q: %v", op, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for children(t, template) != "" {
		if ctx.Err() != nil {
			t.Fatalf("failing op %q left processes: %s", op, children(t, template))
		}
		time.Sleep(time.Millisecond)
	}
}

func TestCloneThatIsDiscardedAtTheGateLeavesNothing(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	c := makeClone(t, template)
	if err := c.Discard(); err != nil {
		t.Fatal(err)
	}
	// A controller that dies closes the gate: the clone ends by itself.
	c = makeClone(t, template)
	if err := c.gate.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Process().Wait(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if left := children(t, template); left != "" {
		t.Errorf("processes are left: %s", left)
	}
}

func TestClonesShareNothingThatTheyWrite(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	a, b := makeClone(t, template), makeClone(t, template)
	release(t, a)
	for range 5 {
		ask(t, a.PID)
	}
	release(t, b)
	if got := ask(t, b.PID); got.Count != 1 || got.Offset != 3 {
		t.Errorf("a clone sees what another did: %+v", got)
	}
	if a, b := proc(t, a.PID, "net/sockstat"), proc(t, template.pid, "net/sockstat"); a == "" || b == "" {
		t.Error("no network")
	}
	for _, ns := range []string{"pid", "net", "mnt", "ipc", "uts"} {
		links := map[string]bool{}
		for _, pid := range []int{template.pid, a.PID, b.PID} {
			link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
			if err != nil {
				t.Fatal(err)
			}
			links[link] = true
		}
		if len(links) != 3 {
			t.Errorf("namespace %s is shared: %v", ns, links)
		}
	}
}

// overlay mounts the host's files with an upper layer of its own, and returns the tree; nothing stays mounted.
func overlay(t *testing.T) (tree *os.File, upper string) {
	t.Helper()
	dir := t.TempDir()
	upper = filepath.Join(dir, "upper")
	for _, d := range []string{upper, filepath.Join(dir, "work"), filepath.Join(dir, "root")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root := filepath.Join(dir, "root")
	if err := linux.Overlay(root, []string{"lowerdir=/", "upperdir=" + upper, "workdir=" + filepath.Join(dir, "work"), "volatile"}); err != nil {
		t.Fatal(err)
	}
	tree, err := linux.CloneTree(root)
	if err := errors.Join(err, linux.Unmount(root)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree, upper
}

func TestCloneLivesInTheRootItIsGiven(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	var uppers []string
	var clones []*Clone
	for range 2 {
		tree, upper := overlay(t)
		c, err := template.Clone(timeout(t), Sandbox{
			Root: true, Proc: true, OwnNet: true, Hostname: "rooted", Mounts: []Mount{{Source: "devtmpfs", Target: "/dev", Type: "devtmpfs"}, {Source: "tmpfs", Target: "/mnt", Type: "tmpfs"}},
		}, Files{Root: tree})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Discard() })
		release(t, c)
		uppers, clones = append(uppers, upper), append(clones, c)
		if got := ask(t, c.PID); got.Count != 1 || got.File != "3" || got.Host != "rooted" {
			t.Errorf("%+v", got)
		}
	}
	name := "/sprout-" + strconv.Itoa(os.Getpid())
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/root%s", clones[0].PID, name), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{uppers[0] + name: true, uppers[1] + name: false, name: false} {
		if _, err := os.Stat(path); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", path, err, want)
		}
	}
	mounts := proc(t, clones[0].PID, "mountinfo")
	if lines := strings.Count(mounts, "\n"); lines != 4 {
		t.Errorf("%d mounts, want root, proc, dev, mnt: %s", lines, mounts)
	}
	for _, file := range []string{"cwd", "exe"} {
		a, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", template.pid, file))
		if err != nil {
			t.Fatal(err)
		}
		if b, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", clones[0].PID, file)); err != nil || a != b {
			t.Errorf("%s is %s, %v; in the template %s", file, b, err, a)
		}
	}
	for _, fd := range []string{"10", "11"} { // the file and its dup in the witness
		theirs, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%s", template.pid, fd))
		if err != nil {
			t.Fatal(err)
		}
		if ours, err := os.Stat(fmt.Sprintf("/proc/%d/fd/%s", clones[0].PID, fd)); err != nil || os.SameFile(ours, theirs) {
			t.Errorf("descriptor %s is the template's, %v", fd, err)
		}
	}
}

func TestCloneBeginsInItsCgroupAndInTheNetworkItIsGiven(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	cgroup := linux.Cgroup{Path: fmt.Sprintf("/sprout-fork-test-%d", os.Getpid())}
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
	defer dir.Close()
	ns, err := linux.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	c, err := template.Clone(timeout(t), Sandbox{Proc: true, Cgroup: true}, Files{Cgroup: dir, Net: ns})
	if err != nil {
		t.Fatal(err)
	}
	pids, err := cgroup.Procs()
	if err != nil || !slices.Equal(pids, []int{c.PID}) {
		t.Errorf("the cgroup has %v, %v; want %d", pids, err, c.PID)
	}
	release(t, c)
	if got := ask(t, c.PID); got.Count != 1 {
		t.Errorf("%+v", got)
	}
	if err := c.Process().Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.Process().Wait(timeout(t)); err != nil {
		t.Fatal(err)
	}
	if status, ok, err := c.Process().ExitStatus(); err != nil || ok && status.Signal() != syscall.SIGKILL {
		t.Errorf("exit status %v, %v", status, err)
	}
	if err := c.Discard(); err != nil {
		t.Error(err)
	}
}

func TestThreadsHoldTheirRegisters(t *testing.T) {
	template := makeTemplate(t, start(t, "/usr/bin/python3", "testdata/registers.py"))
	for range 5 {
		c := makeClone(t, template)
		release(t, c)
		if got := get(t, c.PID, "/"); got != "True 0 True 0" {
			t.Errorf("looks and differences of two threads: %s", got)
		}
		if err := c.Discard(); err != nil {
			t.Error(err)
		}
	}
}

func TestNodeIsCloned(t *testing.T) {
	template := makeTemplate(t, start(t, "/usr/bin/node", "testdata/server.js"))
	if len(template.program.Undo) == 0 {
		t.Error("V8 keeps its heap from being forked; nothing of the kind was seen")
	}
	var took []time.Duration
	for range 10 {
		began := time.Now()
		c := makeClone(t, template)
		took = append(took, time.Since(began))
		release(t, c)
		for n := range 30 {
			if got, want := get(t, c.PID, "/"), fmt.Sprintf("%d true", n+1); got != want && n > 0 {
				t.Fatalf("node answers %q, want %q", got, want)
			}
		}
	}
	slices.Sort(took)
	t.Logf("a clone of %d threads took %v (median of %d)", threads(t, template.pid), took[len(took)/2], len(took))
}

func TestJavaIsCloned(t *testing.T) {
	template := makeTemplate(t, start(t, "/usr/bin/java", "-Xmx256m", "-XX:+UseG1GC", "-XX:-UsePerfData", "-cp", "testdata", "Server"))
	var took []time.Duration
	for range 5 {
		began := time.Now()
		c := makeClone(t, template)
		took = append(took, time.Since(began))
		release(t, c)
		for n := range 50 {
			if got, want := get(t, c.PID, "/"), strconv.Itoa(n+1); got != want {
				t.Fatalf("java answers %q, want %q", got, want)
			}
		}
	}
	slices.Sort(took)
	t.Logf("a clone of %d threads took %v (median of %d)", threads(t, template.pid), took[len(took)/2], len(took))
}

func threads(t testing.TB, pid int) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

func TestStreamsTimersAndLockedMemoryAreTheClones(t *testing.T) {
	script := filepath.Join(t.TempDir(), "x.py")
	// The timer may go off before the template is stopped: it then waits for a word that never comes.
	code := `import ctypes, mmap, os, signal
m = mmap.mmap(-1, 65536, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
assert ctypes.CDLL(None).mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(m))), 65536) == 0
again = os.open("/proc/self/fd/1", os.O_WRONLY | os.O_APPEND) # as a log to /dev/stdout
def tick(*_):
    os.write(again, b"tick " + os.read(0, 100))
signal.signal(signal.SIGALRM, tick)
print("ready", flush=True)
signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
while True: signal.pause()
`
	if err := os.WriteFile(script, []byte(code), 0o600); err != nil {
		t.Fatal(err)
	}
	template := makeTemplate(t, start(t, "/usr/bin/python3", script))
	for _, word := range []string{"one", "two"} {
		line, c := talk(t, template, Sandbox{Proc: true, OwnNet: true}, Files{}, word)
		if line != "tick "+word+"\n" {
			t.Errorf("the clone says %q", line)
		}
		if a, b := field(proc(t, template.pid, "status"), "VmLck"), field(proc(t, c.PID, "status"), "VmLck"); a != b || a == "0 kB" {
			t.Errorf("%s is locked, of the template %s", b, a)
		}
	}
}

// talk makes a clone, says a line to it and returns what it answers.
func talk(t *testing.T, template *Template, s Sandbox, files Files, line string) (answer string, c *Clone) {
	t.Helper()
	in, say, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	heard, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	files.Streams[0], files.Streams[1], files.Streams[2] = in, out, os.Stderr
	c, err = template.Clone(timeout(t), s, files)
	if err := errors.Join(err, in.Close(), out.Close()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(c.Discard(), say.Close(), heard.Close()) })
	if _, err := say.WriteString(line + "\n"); err != nil {
		t.Fatal(err)
	}
	release(t, c)
	answer, err = bufio.NewReader(heard).ReadString('\n')
	if err != nil {
		t.Errorf("the clone says %q, %v", answer, err)
	}
	return answer, c
}

// startScript runs Python that says ready; what follows is what a clone does with each line that it is told.
func startScript(t *testing.T, before, after string) int {
	t.Helper()
	script := filepath.Join(t.TempDir(), "x.py")
	const libraries = "import ctypes, os, select, signal, socket, struct, sys, threading, time\nlibc = ctypes.CDLL(None, use_errno=True)\n"
	if err := os.WriteFile(script, []byte(libraries+before+"\nprint('ready', flush=True)\nfor line in sys.stdin:\n  word = line.strip()\n"+after), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, "/usr/bin/python3", script)
}

func TestATemplateWhoseZygoteHasEndedSaysSo(t *testing.T) {
	template := makeTemplate(t, startWitness(t))
	makeClone(t, template) // it waits, and has the zygote's end of the socket
	pidfd, err := linux.OpenPidfd(zygotePID(t, template))
	if err != nil {
		t.Fatal(err)
	}
	defer pidfd.Close()
	if err := pidfd.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := pidfd.Wait(timeout(t)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := template.Clone(timeout(t), Sandbox{}, Files{}); !errors.Is(err, ErrZygoteGone) {
			t.Errorf("clone of it: %v", err)
		}
	}
	if err := template.Close(); err != nil {
		t.Error(err)
	}
	if _, err := template.Clone(timeout(t), Sandbox{}, Files{}); !errors.Is(err, ErrZygoteGone) {
		t.Errorf("clone of a template that was closed: %v", err)
	}
}
