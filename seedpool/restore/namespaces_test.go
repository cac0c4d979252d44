package restore

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// podNamespaces are those of a process of their own, with a host name in it.
func podNamespaces(t *testing.T, hostname string) (ipc, uts *os.File) {
	t.Helper()
	cmd := exec.Command("/bin/sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWIPC | syscall.CLONE_NEWUTS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	var files [2]*os.File
	for n, name := range []string{"ipc", "uts"} {
		f, err := linux.NSFile(cmd.Process.Pid, name)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		files[n] = f
	}
	if err := linux.SetHostname(cmd.Process.Pid, hostname); err != nil {
		t.Fatal(err)
	}
	return files[0], files[1]
}

// namespace names the one that a process is in.
func namespace(t *testing.T, process, kind string) string {
	t.Helper()
	link, err := os.Readlink(filepath.Join("/proc", process, "ns", kind))
	if err != nil {
		t.Fatal(err)
	}
	return link
}

func TestInstanceJoinsThePodsNamespacesOrHasNewOnes(t *testing.T) {
	b := newBed(t, "tiny-demo")
	spec := b.img.Spec(t, shell...)
	spec.Hostname = "baked"
	seed := b.dump(b.boot(spec))
	if seed.OwnNamespaces {
		t.Fatal("a shell has something in its IPC namespace")
	}
	p := b.prepare(seed)
	p.o.IPCNS, p.o.UTSNS = podNamespaces(t, "pod")
	joined, err := p.restore(t.Context(), b.criu)
	if err != nil {
		t.Fatal(report(err))
	}
	alone := b.restore(seed)
	for _, kind := range []string{"ipc", "uts"} {
		host, pod := namespace(t, "self", kind), namespace(t, strconv.Itoa(joined.pid), kind)
		file := map[string]*os.File{"ipc": p.o.IPCNS, "uts": p.o.UTSNS}[kind]
		want, err := os.Readlink(filepath.Join("/proc/self/fd", strconv.Itoa(int(file.Fd()))))
		if err != nil || pod != want {
			t.Errorf("%s namespace %s, the pod's is %s, %v", kind, pod, want, err)
		}
		if own := namespace(t, strconv.Itoa(alone.pid), kind); own == host || own == pod {
			t.Errorf("%s namespace %s is no new one: the host's is %s, the pod's %s", kind, own, host, pod)
		}
	}
	var name syscall.Utsname
	if err := linux.Enter([]linux.NS{{File: p.o.UTSNS}}, func() error { return syscall.Uname(&name) }); err != nil {
		t.Fatal(err)
	}
	if got := string([]byte{byte(name.Nodename[0]), byte(name.Nodename[1]), byte(name.Nodename[2]), byte(name.Nodename[3])}); got != "pod\x00" {
		t.Errorf("the pod's host name was changed: %q", got)
	}
}

func TestAppWithObjectsInItsIPCNamespaceKeepsIt(t *testing.T) {
	b := newBed(t, "python-demo")
	const script = `
import ctypes, time
assert ctypes.CDLL(None).semget(7, 1, 0o1600) >= 0
print("ready", flush=True)
while True: time.sleep(1)`
	for name, change := range map[string]func(*specs.Spec){
		"semaphore": func(s *specs.Spec) { s.Process.Args = []string{"/usr/bin/python3", "-c", script} },
		"capability": func(s *specs.Spec) {
			s.Process.Capabilities.Bounding = append(s.Process.Capabilities.Bounding, capSysAdmin)
		},
		"sysctls": func(s *specs.Spec) {
			s.Linux.ReadonlyPaths = slices.DeleteFunc(s.Linux.ReadonlyPaths, func(p string) bool { return p == sysctls })
		},
	} {
		t.Run(name, func(t *testing.T) {
			spec := b.img.Spec(t)
			change(spec)
			seed := b.dump(b.boot(spec))
			if !seed.OwnNamespaces {
				t.Fatal("nobody noticed")
			}
			p := b.prepare(seed)
			p.o.IPCNS, p.o.UTSNS = podNamespaces(t, "pod")
			if _, err := p.restore(t.Context(), b.criu); !errors.Is(err, ErrOwnNamespaces) {
				t.Errorf("joined: %v", err)
			}
			i := b.restore(seed)
			ns, err := linux.NSFile(i.pid, "ipc")
			if err != nil {
				t.Fatal(err)
			}
			defer ns.Close()
			var seen []byte
			err = linux.Enter([]linux.NS{{File: ns}}, func() (err error) {
				seen, err = os.ReadFile("/proc/sysvipc/sem")
				return err
			})
			if lines := bytes.Count(seen, []byte("\n")); err != nil || (name == "semaphore") != (lines == 2) {
				t.Errorf("%d lines about semaphores, %v", lines, err)
			}
		})
	}
}
