package linux

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEnterThrowsItsThreadAway(t *testing.T) {
	tid := 0
	want := errors.New("from inside")
	if err := Enter(nil, func() error { tid = unix.Gettid(); return want }); !errors.Is(err, want) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the thread has ended", func() bool { return !exists(fmt.Sprintf("/proc/self/task/%d", tid)) })
}

func TestEnterSaysWhenTheFunctionDidNotReturn(t *testing.T) {
	if err := Enter(nil, func() error { runtime.Goexit(); return nil }); err == nil {
		t.Error("no error")
	}
}

func TestEnterSaysWhichNamespaceItCannotEnter(t *testing.T) {
	f := get[*os.File](t)(os.Open("/dev/null"))
	defer f.Close()
	called := false
	err := Enter([]NS{{unix.CLONE_NEWNET, f}}, func() error { called = true; return nil })
	if !errors.Is(err, unix.EINVAL) || called {
		t.Errorf("got %v, function called: %t", err, called)
	}
}

func TestEnterSeesTheProcessAndTheCallerDoesNot(t *testing.T) {
	p := container(t, "container", t.TempDir())
	var kinds []NS
	for _, name := range []string{"uts", "net", "mnt"} {
		f := get[*os.File](t)(NSFile(p.pid(), name))
		defer f.Close()
		kinds = append(kinds, NS{File: f})
	}
	must(t, os.WriteFile(p.inside("only-here"), nil, 0o600))
	must(t, Enter(kinds, func() error {
		for _, name := range []string{"uts", "net", "mnt"} {
			ours, _ := os.Readlink("/proc/thread-self/ns/" + name)
			theirs, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", p.pid(), name))
			if ours != theirs && name != "mnt" {
				t.Errorf("%s: in %s, want %s", name, ours, theirs)
			}
		}
		_, err := os.Stat("/only-here")
		return err
	}))
	if exists("/only-here") {
		t.Error("the caller is inside")
	}
}

func TestNamespaceOfNoProcessIsAnError(t *testing.T) {
	if _, err := NSFile(1<<30, "net"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

func TestNewNetNSHasLoopbackAndNothingElse(t *testing.T) {
	ns := get[*os.File](t)(NewNetNS())
	defer ns.Close()
	var address string
	must(t, Enter([]NS{{unix.CLONE_NEWNET, ns}}, func() error {
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		for _, one := range all {
			if up := one.Flags&net.FlagUp != 0; up != (one.Name == "lo") {
				t.Errorf("%s is up: %t", one.Name, up)
			}
		}
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return err
		}
		defer listener.Close()
		address = listener.Addr().String()
		go func() {
			if c, err := listener.Accept(); err == nil {
				_, _ = io.WriteString(c, "hello")
				_ = c.Close()
			}
		}()
		c, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		defer c.Close()
		data, err := io.ReadAll(c)
		if string(data) != "hello" {
			t.Errorf("read %q", data)
		}
		return err
	}))
	if c, err := net.Dial("tcp", address); err == nil {
		t.Error("it listens on the host")
		_ = c.Close()
	}
}

func TestSetHostnameIsForTheProcessOnlyAlsoWhenItIsFrozen(t *testing.T) {
	host := get[string](t)(os.Hostname())
	c := cgroup(t)
	p := start(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS}, "sh", "-c", "read go; uname -n; cat /proc/sys/kernel/domainname; read end")
	must(t, c.Attach(p.pid()))
	must(t, c.Freeze(t.Context()))
	must(t, SetHostname(p.pid(), "woken"))
	must(t, SetDomainname(p.pid(), "garden"))
	must(t, c.Thaw())
	p.tell(t, "go")
	if name, domain := p.line(t), p.line(t); name != "woken" || domain != "garden" {
		t.Errorf("it is %s in %s", name, domain)
	}
	if now := get[string](t)(os.Hostname()); now != host {
		t.Errorf("the host is called %s now", now)
	}
	if err := SetHostname(p.pid(), string(make([]byte, 65))); !errors.Is(err, unix.EINVAL) {
		t.Errorf("a name that is too long: %v", err)
	}
	if err := SetHostname(1<<30, "x"); err == nil {
		t.Error("no process: no error")
	}
}
