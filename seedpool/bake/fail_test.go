package bake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/imagetest"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// perlDeaf listens and never accepts.
const perlDeaf = `use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 7000) or die; sleep 3600`

// perlTalk keeps a connection to itself.
const perlTalk = `use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 7000) or die; my $c = IO::Socket::INET->new(PeerAddr => "127.0.0.1", PeerPort => 7000) or die; my $d = $s->accept; $| = 1; print "talking\n"; sleep 3600`

func TestNotReadyInTimeSaysWhatWasSeen(t *testing.T) {
	for form, c := range map[string]struct{ script, last, hint string }{
		"http://:8080/":     {"echo booting; exec sleep 60", "connection refused", "nothing listens"},
		"http://:7000/":     {"echo booting; exec perl -e '" + perlServer + "'", "EOF", "check the path"},
		"tcp://:7001":       {"echo booting; exec perl -e '" + perlServer + "'", "connection refused", "127.0.0.1:7000, not on port 7001"},
		"log=never":         {"echo booting; exec sleep 60", "no line has matched", "allow more time"},
		"file=/nonexistent": {"echo booting; exec sleep 60", "does not exist", "allow more time"},
		"exec=cat /missing": {"echo booting; exec sleep 60", "/missing: No such file", "allow more time"},
		"exec=sleep 60":     {"echo booting; exec sleep 60", "no answer", "allow more time"},
	} {
		t.Run(form, func(t *testing.T) {
			b := newBed(t)
			o := b.options(imagetest.Get(t, "tiny-demo"), form, "sh", "-c", c.script)
			o.Ready.Timeout = 2 * time.Second
			e := b.fail(o)
			if e.Step != StepReady || !strings.Contains(e.Error(), "not ready after 2s") || !strings.Contains(e.Error(), c.last) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("step %s, error %q, hint %q", e.Step, e, e.Hint)
			}
			if diff := cmp.Diff([]string{"booting"}, e.AppLog); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAppThatEndsIsNoticedAtOnce(t *testing.T) {
	small := int64(20 << 20)
	for name, c := range map[string]struct{ script, how, hint string }{
		"status":  {"echo cannot go on >&2; exit 3", "ended with status 3", "only lo"},
		"missing": {"echo cannot go on >&2; exec nonexistent 2> /dev/null", "ended with status 127", "entrypoint"},
		"killed":  {`echo cannot go on >&2; exec perl -e 'for (1 .. 1000) { $x .= "x" x 1e6 }'`, "ended with status 137", "memory limit"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			o := b.options(imagetest.Get(t, "tiny-demo"), "http://:8080/", "sh", "-c", c.script)
			o.Spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &small}}
			began := time.Now()
			e := b.fail(o)
			if e.Step != StepReady || !strings.Contains(e.Error(), c.how) || !strings.Contains(e.Hint, c.hint) {
				t.Errorf("step %s, error %q, hint %q", e.Step, e, e.Hint)
			}
			if diff := cmp.Diff([]string{"cannot go on"}, e.AppLog); diff != "" {
				t.Error(diff)
			}
			if took := time.Since(began); took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

func TestCommandThatIsNotInTheImageIsNamed(t *testing.T) {
	b := newBed(t)
	e := b.fail(b.options(imagetest.Get(t, "tiny-demo"), "log=x", "/nonexistent/app"))
	if e.Step != StepBoot || !strings.Contains(e.Error(), "/nonexistent/app") {
		t.Errorf("step %s, error %q", e.Step, e)
	}
}

func TestErrorsDoNotPrintTheEnvironment(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "tiny-demo"), "http://:8080/", "false")
	o.Spec.Process.Env = append(o.Spec.Process.Env, "TOKEN=geheim")
	if e := b.fail(o); strings.Contains(e.Report(), "geheim") {
		t.Error("the environment is in the report")
	}
}

func TestRefusedWarmUpRequestEndsTheBake(t *testing.T) {
	b := newBed(t)
	once := `use IO::Socket::INET; my $s = IO::Socket::INET->new(Listen => 5, LocalAddr => "127.0.0.1", LocalPort => 7000) or die; for (1 .. 5) { my $c = $s->accept; close $c } close $s; sleep 60`
	o := b.options(imagetest.Get(t, "tiny-demo"), "tcp://:7000", "perl", "-e", once)
	o.Warmup = 20
	e := b.fail(o)
	if e.Step != StepWarmup || !strings.Contains(e.Error(), "of 20") {
		t.Errorf("step %s, error %q", e.Step, e)
	}
}

func TestOpenConnectionEndsTheBake(t *testing.T) {
	b := newBed(t)
	e := b.fail(b.options(imagetest.Get(t, "tiny-demo"), "log=talking", "perl", "-e", perlTalk))
	if e.Step != StepSettle || !strings.Contains(e.Error(), "is open") || e.Hint == "" {
		t.Errorf("step %s, error %q, hint %q", e.Step, e, e.Hint)
	}
}

func TestFailureOfCRIUShowsItsLogAndAHint(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=up", "sh", "-c", "echo up; exec sleep infinity")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "criu")
	if err := os.Symlink(self, link); err != nil {
		t.Fatal(err)
	}
	o.CRIU = restore.CRIU{Path: link}
	t.Setenv("SPROUT_TEST_CRIU_LOG", filepath.Join(o.Dir, "work", "dump.log"))
	e := b.fail(o)
	if e.Step != StepDump || !strings.Contains(strings.Join(e.CRIULog, "\n"), "Unsupported proto 262") || !strings.Contains(e.Hint, "multipathtcp=0") {
		t.Errorf("step %s, log %q, hint %q", e.Step, e.CRIULog, e.Hint)
	}
	if diff := cmp.Diff([]string{"up"}, e.AppLog); diff != "" {
		t.Error(diff)
	}
}

// What CRIU says is CRIU's: a hint must follow from what it really writes.
func TestAppThatCRIUDoesNotDumpGetsAHint(t *testing.T) {
	for name, c := range map[string]struct{ script, hint string }{
		"mptcp":       {`use Socket; socket(my $s, AF_INET, SOCK_STREAM, 262) or die; bind($s, sockaddr_in(7000, INADDR_LOOPBACK)) or die; listen($s, 5) or die`, "multipathtcp=0"},
		"io_uring":    {`syscall(425, 8, my $p = "\0" x 120) > 2 or die`, "UV_USE_IO_URING=0"},
		"userfaultfd": {`syscall(323, 1) > 2 or die`, "starts cold"},
		"ghost":       {`open(my $f, ">", "/tmp/big") or die; print $f "x" x 1e6 for 1 .. 80; $f->flush; unlink "/tmp/big"; push @keep, $f`, "deleted file"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t)
			e := b.fail(b.options(imagetest.Get(t, "tiny-demo"), "log=up", "perl", "-e", c.script+`; $| = 1; print "up\n"; sleep 600`))
			if e.Step != StepDump || !strings.Contains(e.Hint, c.hint) || len(e.CRIULog) == 0 {
				t.Errorf("step %s, log %q, hint %q", e.Step, e.CRIULog, e.Hint)
			}
		})
	}
}

func TestToolThatIsMissingIsNamed(t *testing.T) {
	for step, change := range map[Step]func(*Options){
		StepBoot: func(o *Options) { o.RuncPath = "/nonexistent/runc" },
		StepDump: func(o *Options) { o.CRIU = restore.CRIU{Path: "/nonexistent/criu"} },
	} {
		t.Run(string(step), func(t *testing.T) {
			b := newBed(t)
			o := b.options(imagetest.Get(t, "tiny-demo"), "log=up", "sh", "-c", "echo up; exec sleep infinity")
			change(&o)
			if e := b.fail(o); e.Step != step || !strings.Contains(e.Error(), "/nonexistent/") {
				t.Errorf("step %s, error %q", e.Step, e)
			}
		})
	}
}

func TestWrongOptionsChangeNothing(t *testing.T) {
	for reason, change := range map[string]func(*testing.T, *Options){
		"need a readiness of http or tcp": func(_ *testing.T, o *Options) { o.Warmup = 1 },
		"cgroup path":                     func(_ *testing.T, o *Options) { o.CgroupPath = "/" },
		"terminal":                        func(_ *testing.T, o *Options) { o.Spec.Process.Terminal = true },
		"user namespace": func(_ *testing.T, o *Options) {
			o.Spec.Linux.Namespaces = append(o.Spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace})
		},
		"file exists": func(t *testing.T, o *Options) {
			o.ImagesDir = t.TempDir()
			writeFile(t, o.ImagesDir+"/kept", "")
		},
	} {
		t.Run(reason, func(t *testing.T) {
			b := newBed(t)
			o := b.options(imagetest.Get(t, "tiny-demo"), "log=up")
			change(t, &o)
			if e := b.fail(o); e.Step != StepPrepare || !strings.Contains(e.Error(), reason) {
				t.Errorf("step %s, error %q", e.Step, e)
			}
			if reason == "file exists" {
				if _, err := os.Stat(o.ImagesDir + "/kept"); err != nil {
					t.Errorf("images of somebody else: %v", err)
				}
			}
		})
	}
}

func TestCancelledBakeLeavesNothing(t *testing.T) {
	for _, m := range moments {
		t.Run(fmt.Sprintf("%s %s", m.step, m.after), func(t *testing.T) {
			b := newBed(t)
			o := b.options(imagetest.Get(t, "tiny-demo"), m.ready, "perl", "-e", perlServer)
			o.Warmup = m.warmup
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var once sync.Once
			o.Progress = func(e *api.BakeEvent) {
				if e.GetStep() == string(m.step) {
					once.Do(func() { time.AfterFunc(m.after, cancel) })
				}
			}
			wasCancelled(t, ctx, o, m.step, m.after > 0)
		})
	}
}

func TestBakeCancelledWhileItSettlesLeavesNothing(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "tiny-demo"), "tcp://:7000", "perl", "-e", perlDeaf)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	_, err := Run(ctx, o)
	if e, ok := errors.AsType[*Error](err); !ok || e.Step != StepSettle || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v", err)
	}
}

func TestBakeCancelledBeforeItBeginsMakesNothing(t *testing.T) {
	b := newBed(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	wasCancelled(t, ctx, b.options(imagetest.Get(t, "tiny-demo"), "log=x"), StepPrepare, false)
}

// wasCancelled bakes. When the bake may have gone on before it noticed, any later step, or none, is right too.
func wasCancelled(t *testing.T, ctx context.Context, o Options, step Step, orLater bool) {
	t.Helper()
	began := time.Now()
	_, err := Run(ctx, o)
	if err == nil && orLater {
		if err := os.RemoveAll(o.ImagesDir); err != nil {
			t.Error(err)
		}
		return
	}
	e, ok := errors.AsType[*Error](err)
	if !ok || e.Step != step && !orLater || !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %s", took)
	}
}
