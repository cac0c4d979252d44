package linux

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStartAsGivesTheRealIdsAndKeepsRootsEffectiveOnes(t *testing.T) {
	c := exec.Command("cat", "/proc/self/status")
	var out strings.Builder
	c.Stdout = &out
	must(t, Enter(nil, func() error { return StartAs(c, 1001, 1002) }))
	must(t, c.Wait())
	creds := get[Creds](t)(parseCreds(out.String()))
	if want := [4]int{1001, 0, 0, 0}; creds.Uids != want {
		t.Errorf("uids %v, want %v", creds.Uids, want)
	}
	if want := [4]int{1002, 0, 0, 0}; creds.Gids != want {
		t.Errorf("gids %v, want %v", creds.Gids, want)
	}
	if unix.Getuid() != 0 || get[Creds](t)(ReadCreds(os.Getpid(), os.Getpid())).Uids != [4]int{} {
		t.Error("this process has changed")
	}
	if err := Enter(nil, func() error { return StartAs(exec.Command("/none"), 1, 1) }); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
}

func TestChildrenAreThoseOfAllThreadsWithTheZombies(t *testing.T) {
	var running *process
	must(t, Enter(nil, func() error { running = sleeper(t); return nil }))
	zombie := exec.Command("true")
	must(t, zombie.Start())
	t.Cleanup(func() { _ = zombie.Wait() })
	eventually(t, "it has ended", func() bool {
		state, _, err := stat(zombie.Process.Pid)
		return err == nil && state == 'Z'
	})
	list := get[[]int](t)(Children(os.Getpid()))
	if !slices.Contains(list, running.pid()) || !slices.Contains(list, zombie.Process.Pid) {
		t.Errorf("%v has not both %d and %d", list, running.pid(), zombie.Process.Pid)
	}
	if list := get[[]int](t)(Children(running.pid())); len(list) != 0 {
		t.Errorf("of one that has none: %v", list)
	}
	if _, err := Children(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("of no process: %v", err)
	}
}

func TestSocketPairs(t *testing.T) {
	for name, pair := range map[string]func(string) (*os.File, *os.File, error){"packets": SeqpacketPair, "stream": StreamPair} {
		ours, theirs, err := pair("test")
		must(t, err)
		get[int](t)(ours.WriteString("one"))
		get[int](t)(ours.WriteString("two"))
		must(t, ours.Close())
		first := make([]byte, 10)
		n := get[int](t)(theirs.Read(first))
		rest := get[[]byte](t)(io.ReadAll(theirs))
		if all := string(first[:n]) + string(rest); all != "onetwo" || name == "packets" && n != 3 {
			t.Errorf("%s: read %q, then %q", name, first[:n], rest)
		}
		must(t, theirs.Close())
	}
}

func TestThreadAttachedToACgroupStartsProcessesThere(t *testing.T) {
	c := cgroup(t)
	var p *process
	must(t, Enter(nil, func() error {
		if err := c.AttachThread(); err != nil {
			return err
		}
		dir, err := c.Open()
		if err != nil {
			return err
		}
		defer dir.Close()
		p = start(t, &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}, "sleep", "1000")
		return nil
	}))
	for _, line := range lines("/proc/" + strconv.Itoa(p.pid()) + "/cgroup") {
		if !strings.HasSuffix(line, ":"+c.Path) {
			t.Errorf("it is in %s", line)
		}
	}
}

func TestLockIsHeldByOneUntilItIsClosed(t *testing.T) {
	path := t.TempDir() + "/lock"
	f := get[*os.File](t)(Lock(path))
	if _, err := Lock(path); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
	must(t, f.Close())
	must(t, get[*os.File](t)(Lock(path)).Close())
}

func TestFileSystemAndNodesAreWhatWasAskedFor(t *testing.T) {
	dir := t.TempDir()
	must(t, Tmpfs(dir, "test", 0, ""))
	t.Cleanup(func() { must(t, Unmount(dir)) })
	if !get[bool](t)(IsTmpfs(dir)) || get[bool](t)(IsTmpfs("/proc")) {
		t.Error("what is a tmpfs is not told, or what is none is")
	}
	if _, err := IsTmpfs(dir + "/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no path: %v", err)
	}
	must(t, MakeNode(dir+"/null", "c", 1, 3))
	must(t, os.WriteFile(dir+"/null", []byte("gone"), 0))
	if got := readString(t, dir+"/null"); got != "" {
		t.Errorf("it reads %q", got)
	}
	if err := MakeNode(dir+"/x", "other", 1, 3); err == nil {
		t.Error("an unknown kind is made")
	}
}

func TestExposedRootIsTheFileSystemAlone(t *testing.T) {
	root, at := t.TempDir(), t.TempDir()
	must(t, os.WriteFile(root+"/file", []byte("of the image"), 0o644))
	p := container(t, "container", root)
	must(t, BindInto(p.pid(), []BindMount{{source(t) + "/file", "/file", nil}}))
	must(t, Expose(p.pid(), at))
	t.Cleanup(func() { must(t, Unmount(at)) })
	if got := readString(t, at+"/file"); got != "of the image" {
		t.Errorf("it shows %q", got)
	}
	if exists(at + "/proc/self") {
		t.Error("what is mounted below came along")
	}
	if err := Expose(p.pid(), at+"/none"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
}
