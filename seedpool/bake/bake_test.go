package bake

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/imagetest"
)

// perlServer accepts connections, reads what comes first and answers nothing; perl is all that the tiny image has for it.
const perlServer = `use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 7000, ReuseAddr => 1) or die; while (1) { my $c = $s->accept or next; sysread $c, my $x, 4096; close $c }`

func TestBakesWhenReady(t *testing.T) {
	for name, c := range map[string]struct {
		ready string
		args  []string
	}{
		"log":  {"log=^up after [0-9]+$", []string{"sh", "-c", "echo warming >&2; sleep 0.3; echo up after 3; exec sleep infinity"}},
		"file": {"file=/var/run/up", []string{"sh", "-c", "sleep 0.3; ln -s /run/real /run/up; touch /run/real; exec sleep infinity"}},
		"exec": {"exec=sh -c 'test -e /tmp/up'", []string{"sh", "-c", "sleep 0.3; touch /tmp/up; exec sleep infinity"}},
		"tcp":  {"tcp://:7000", []string{"perl", "-e", perlServer}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			b.bake(b.options(imagetest.Get(t, "tiny-demo"), c.ready, c.args...))
		})
	}
}

func TestBakesAWebServiceWarm(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "python-demo"), "http://:8080/")
	o.Warmup = 50
	var last *api.BakeEvent
	show := o.Progress
	o.Progress = func(e *api.BakeEvent) {
		show(e)
		if e.GetStep() == string(StepWarmup) {
			last = e
		}
	}
	result := b.bake(o)
	if last.GetDone() != 50 || last.GetTotal() != 50 {
		t.Errorf("the last report of the warm-up is %v", last)
	}
	var names []string
	for _, p := range result.Phases {
		names = append(names, p.GetName())
	}
	if diff := cmp.Diff([]string{"prepare", "boot", "ready", "warmup", "settle", "dump"}, names); diff != "" {
		t.Error(diff)
	}
	if result.Threads < 2 {
		t.Errorf("%d threads", result.Threads)
	}
}

func TestWarmsUpATCPServer(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "tiny-demo"), "tcp://:7000", "perl", "-e", perlServer)
	o.Warmup = 20
	b.bake(o)
}

func TestThreeBakesInARowLeaveNothing(t *testing.T) {
	b := newBed(t)
	for range 3 {
		o := b.options(imagetest.Get(t, "tiny-demo"), "log=up", "sh", "-c", "echo up; exec sleep infinity")
		b.bake(o)
		for _, option := range o.Overlay {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				if _, err := os.Stat(upper); err != nil {
					t.Errorf("the app's rootfs is not left to the caller: %v", err)
				}
			}
		}
	}
}

// lines boots an app that ends and gives what it has printed.
func (b *bed) lines(o Options) []string {
	b.t.Helper()
	e := b.fail(o)
	if !errors.Is(e, errEnded) {
		b.t.Errorf("error %v", e)
	}
	return e.AppLog
}

func TestAppSeesTheAdaptedSpec(t *testing.T) {
	b := newBed(t)
	script := `hostname; sed -n "s/.*:memory:/memory /p" /proc/self/cgroup; cat /sys/class/net/*/operstate; ls /sys/class/net; test -e /late || echo no late`
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=never", "sh", "-c", script)
	o.Spec.Mounts = append(o.Spec.Mounts, specs.Mount{Destination: "/late", Type: "bind", Source: t.TempDir(), Options: []string{"rbind"}})
	o.LateMounts = []string{"/late"}
	o.Spec.Hooks = &specs.Hooks{Poststart: []specs.Hook{{Path: "/nonexistent"}}}
	if diff := cmp.Diff([]string{"baked", "memory " + o.CgroupPath, "unknown", "lo", "no late"}, b.lines(o)); diff != "" {
		t.Error(diff)
	}
}

func TestStandardStreamsAreBlockingPipesOfTheAppsUser(t *testing.T) {
	b := newBed(t)
	script := `for fd in 0 1 2; do stat -L -c "%F %u" /proc/self/fd/$fd; grep flags /proc/self/fdinfo/$fd; done; echo again > /dev/stdout`
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=never", "sh", "-c", script)
	o.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
	want := []string{"fifo 1000", "flags:\t00", "fifo 1000", "flags:\t01", "fifo 1000", "flags:\t01", "again"}
	if diff := cmp.Diff(want, b.lines(o)); diff != "" {
		t.Error(diff)
	}
}

// whileBooted bakes a container that counts as ready when look has returned.
func (b *bed) whileBooted(o Options, look func(pid int)) {
	b.t.Helper()
	o.Ready = Readiness{Kind: File, Target: "/go"}
	looked := false
	show := o.Progress
	o.Progress = func(e *api.BakeEvent) {
		show(e)
		if e.GetStep() != string(StepReady) || looked {
			return
		}
		looked = true
		pid, err := readPid(filepath.Join(o.Dir, "init.pid"))
		if err != nil {
			b.t.Error(err)
			return
		}
		look(pid)
		writeFile(b.t, fmt.Sprintf("/proc/%d/root/go", pid), "")
	}
	b.bake(o)
}

func TestContainerHasTheResourcesAskedAndNoMountOfTheHosts(t *testing.T) {
	b := newBed(t)
	limit := int64(256 << 20)
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=x")
	o.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	b.whileBooted(o, func(int) {
		memory, err := os.ReadFile("/sys/fs/cgroup/memory" + o.CgroupPath + "/memory.limit_in_bytes")
		if err != nil || strings.TrimSpace(string(memory)) != "268435456" {
			t.Errorf("memory limit %q: %v", memory, err)
		}
		mounts, err := os.ReadFile("/proc/self/mountinfo")
		if err != nil || strings.Contains(string(mounts), o.Dir) {
			t.Errorf("the host's mount table shows the bake: %v", err)
		}
	})
}

func TestProbeAsksARunningContainer(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=x", "perl", "-e", perlServer)
	b.whileBooted(o, func(pid int) {
		for form, want := range map[string]string{
			"tcp://:7000":       "",
			"tcp://:7001":       "connection refused",
			"http://:7000/":     "EOF",
			"file=/etc/passwd":  "",
			"file=/nonexistent": "does not exist",
			"log=x":             "",
			"exec=x":            "",
		} {
			r, err := ParseReadiness(form)
			if err != nil {
				t.Fatal(err)
			}
			r.Timeout = 500 * time.Millisecond
			err = Probe(t.Context(), pid, r)
			if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
				t.Errorf("%s: error %v, want %q", form, err, want)
			}
		}
	})
}

func TestFileIsLookedUpInsideTheContainer(t *testing.T) {
	b := newBed(t)
	outside := filepath.Join(t.TempDir(), "outside")
	writeFile(t, outside, "")
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=x", "sh", "-c", "ln -s "+outside+" /link; ln -s ../../../../../../../.."+outside+" /dots; exec sleep infinity")
	b.whileBooted(o, func(pid int) {
		for _, target := range []string{outside, "/link", "/dots", "/proc/1/root/../../.." + outside} {
			if err := Probe(t.Context(), pid, Readiness{Kind: File, Target: target, Timeout: 300 * time.Millisecond}); err == nil {
				t.Errorf("%s was found: it is the host's", target)
			}
		}
	})
}
