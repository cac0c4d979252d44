package linux

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// roleEnv says what this binary is: the tests in a mount namespace of their own ("tests"), the same on a host with cgroup v2 only ("unified"), a
// container's first process ("container", "chroot"), or one that offers its memory ("offering").
const roleEnv = "SPROUT_LINUX_TEST_ROLE"

// groupPrefix is how the name of every cgroup of these tests begins.
const groupPrefix = "sprout-linux-test-"

func TestMain(m *testing.M) {
	switch role := os.Getenv(roleEnv); role {
	case "container", "chroot":
		os.Exit(beContainer(role, os.Args[1]))
	case "offering":
		if err := errors.Join(OfferMemory(), unix.Exec("/bin/cat", []string{"cat", "/proc/self/ksm_stat"}, nil)); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	case "user":
		os.Exit(m.Run())
	case "tests", "unified":
		os.Exit(runTests(m, role))
	}
	if os.Getuid() != 0 {
		fmt.Fprintln(os.Stderr, "these tests mount, freeze and enter namespaces: run them as root")
		os.Exit(1)
	}
	// Other tests of the host mount and unmount meanwhile: in a namespace of our own every mount is ours.
	os.Exit(again("tests", os.Stdout, os.Args[1:]...))
}

// again runs this binary in another role and in a mount namespace of its own, and returns its exit code.
func again(role string, out io.Writer, args ...string) int {
	c := exec.Command("/proc/self/exe", args...)
	c.Env = append(os.Environ(), roleEnv+"="+role)
	c.Stdout, c.Stderr = out, out
	// A run that is killed, by its timeout too, takes this one along; that signal belongs to the thread.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	c.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := c.Run(); err != nil && c.ProcessState == nil {
		fmt.Fprintln(out, err)
		return 1
	}
	return c.ProcessState.ExitCode()
}

// runTests fails when the tests leave anything behind.
func runTests(m *testing.M, role string) int {
	if role == "unified" {
		if err := Mount("cgroup2", cgroupMounts, "cgroup2", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	// What the tests' processes leave behind becomes ours, and is counted.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	before := held()
	code := m.Run()
	after := held()
	for what, list := range after {
		for _, one := range list {
			if !slices.Contains(before[what], one) {
				fmt.Fprintf(os.Stderr, "the tests leave a %s: %s\n", what, one)
				code = 1
			}
		}
	}
	return code
}

// held is everything that a test could leak.
func held() map[string][]string {
	return map[string][]string{
		"descriptor": descriptors(),
		"mount":      lines("/proc/self/mountinfo"),
		"cgroup":     testCgroups(),
		"process":    children(),
	}
}

func lines(path string) []string {
	data, err := os.ReadFile(path)
	if err != nil {
		panic(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// descriptors leaves out what the Go runtime opens once and keeps: its poller.
func descriptors() (list []string) {
	const dir = "/proc/self/fd/"
	entries, err := os.ReadDir(dir)
	if err != nil {
		panic(err)
	}
	for _, entry := range entries {
		link, err := os.Readlink(dir + entry.Name())
		if err == nil && link != "anon_inode:[eventpoll]" && link != "anon_inode:[eventfd]" {
			list = append(list, entry.Name()+" "+link)
		}
	}
	return list
}

// testCgroups are those of this process, by its pid: another run of these tests may be under way.
func testCgroups() (list []string) {
	roots, err := Hierarchies()
	if err != nil {
		panic(err)
	}
	for _, root := range roots {
		found, err := filepath.Glob(filepath.Join(root, fmt.Sprintf("%s%d-*", groupPrefix, os.Getpid())))
		if err != nil {
			panic(err)
		}
		list = append(list, found...)
	}
	return list
}

// children reaps those that have ended and names the others.
func children() (list []string) {
	for {
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil)
		if errors.Is(err, unix.ECHILD) {
			return nil
		}
		if err == nil && pid == 0 {
			break
		}
	}
	pids, err := Children(os.Getpid())
	if err != nil {
		panic(err)
	}
	for _, pid := range pids {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		list = append(list, fmt.Sprintf("%d %q", pid, command))
	}
	return list
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func get[T any](t testing.TB) func(T, error) T {
	return func(value T, err error) T {
		t.Helper()
		must(t, err)
		return value
	}
}

// eventually waits for something that the kernel tells nobody.
func eventually(t testing.TB, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); {
		if time.Now().After(deadline) {
			t.Fatal(what + ": not within 10 s")
		}
		time.Sleep(time.Millisecond)
	}
}

// process is a running child with a pipe from its standard output.
type process struct {
	*exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// start runs a command until the end of the test.
func start(t testing.TB, attr *syscall.SysProcAttr, name string, args ...string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(name, args...)}
	p.SysProcAttr = attr
	p.Stderr = os.Stderr
	return p.run(t)
}

func (p *process) run(t testing.TB) *process {
	t.Helper()
	p.in = get[io.WriteCloser](t)(p.StdinPipe())
	p.out = bufio.NewReader(get[io.ReadCloser](t)(p.StdoutPipe()))
	must(t, p.Start())
	t.Cleanup(func() {
		_ = p.Process.Kill()
		_ = p.Wait()
	})
	return p
}

func (p *process) pid() int { return p.Process.Pid }

// line reads what the process says next.
func (p *process) line(t testing.TB) string {
	t.Helper()
	return strings.TrimSuffix(get[string](t)(p.out.ReadString('\n')), "\n")
}

// sleeper is a process that does nothing.
func sleeper(t testing.TB) *process {
	t.Helper()
	return start(t, nil, "sleep", "1000")
}

// container is a process in namespaces of its own whose root is dir.
func container(t testing.TB, role, dir string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command("/proc/self/exe", dir)}
	p.Env = append(os.Environ(), roleEnv+"="+role)
	p.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Cloneflags: syscall.CLONE_NEWUTS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	p.Stderr = os.Stderr
	p.run(t)
	if said := p.line(t); said != "ready" {
		t.Fatalf("container says %q", said)
	}
	return p
}

// beContainer enters a root as runc does, by pivot_root or by chroot, and waits to be killed.
func beContainer(role, dir string) int {
	steps := []func() error{
		func() error { return Bind(dir, dir, false, true) },
		func() error { return os.MkdirAll(dir+"/proc", 0o755) },
		func() error { return Mount("proc", dir+"/proc", "proc", 0, "") },
		func() error { return os.Chdir(dir) },
	}
	if role == "chroot" {
		steps = append(steps, func() error { return unix.Chroot(".") })
	} else {
		steps = append(steps, func() error { return unix.PivotRoot(".", ".") }, func() error { return Unmount(".") })
	}
	for _, step := range append(steps, func() error { return os.Chdir("/") }) {
		if err := step(); err != nil {
			fmt.Println(err)
			return 1
		}
	}
	fmt.Println("ready")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return 0
}

// inside is the path of a file of a container, as the kernel resolves it from there.
func (p *process) inside(name string) string { return fmt.Sprintf("/proc/%d/root/%s", p.pid(), name) }

// cgroup is a cgroup for one test.
func cgroup(t testing.TB) Cgroup {
	t.Helper()
	name := strings.NewReplacer("/", "-", " ", "-").Replace(t.Name())
	c := Cgroup{Path: fmt.Sprintf("/%s%d-%s", groupPrefix, os.Getpid(), name)}
	must(t, c.Create())
	t.Cleanup(func() {
		must(t, c.Kill())
		must(t, c.Remove())
	})
	return c
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
