package bake

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cyphar/filepath-securejoin/pathrs-lite"
	"github.com/google/go-cmp/cmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/imagetest"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// bed is the ground of one test: directories and a cgroup of its own. When the test ends nothing may be left of any bake.
type bed struct {
	t      *testing.T
	dir    string
	cgroup string
	before traces
}

// traces is what a bake may leave behind on a machine.
type traces struct {
	Mounts, Cgroups, Files, Processes, FDs []string
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{t: t, dir: t.TempDir(), cgroup: fmt.Sprintf("/sprout-bake-test-%d", os.Getpid())}
	warmRuntime(t)
	b.before = b.traces()
	t.Cleanup(func() {
		if diff := cmp.Diff(b.before, b.traces()); diff != "" {
			t.Errorf("the bake left something behind: %s", diff)
		}
		if err := (linux.Cgroup{Path: b.cgroup}).Remove(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// warmRuntime opens what is opened once and kept, so that open files can be compared: the runtime's poller, a procfs of the path library.
func warmRuntime(t *testing.T) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		t.Fatal(err)
	}
	f, err := pathrs.OpenInRoot("/", "/")
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func (b *bed) traces() traces {
	b.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		b.t.Fatal(err)
	}
	found := traces{Processes: b.processes()}
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, b.dir) {
			found.Mounts = append(found.Mounts, line)
		}
	}
	roots, err := linux.Hierarchies()
	if err != nil {
		b.t.Fatal(err)
	}
	for _, root := range roots {
		found.Cgroups = append(found.Cgroups, b.below(filepath.Join(root, b.cgroup), true)...)
	}
	found.Files = b.below(b.dir, false)
	fds, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, fd := range fds {
		if target, err := os.Readlink(fd); err == nil {
			found.FDs = append(found.FDs, target)
		}
	}
	slices.Sort(found.FDs)
	return found
}

// below lists what is in dir: only directories for cgroups, whose files come with them.
func (b *bed) below(dir string, dirsOnly bool) []string {
	var names []string
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && path != dir && (entry.IsDir() || !dirsOnly) {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		b.t.Fatal(err)
	}
	return names
}

// processes lists those that name the test's directory or are in its cgroup. Zombies are dead: their parent reaps them in its own time.
func (b *bed) processes() []string {
	found, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.t.Fatal(err)
	}
	return slices.DeleteFunc(found, func(proc string) bool {
		stat, _ := os.ReadFile(proc + "/stat")
		cmdline, _ := os.ReadFile(proc + "/cmdline")
		cgroups, _ := os.ReadFile(proc + "/cgroup")
		return bytes.Contains(stat, []byte(") Z ")) || !bytes.Contains(cmdline, []byte(b.dir)) && !bytes.Contains(cgroups, []byte(b.cgroup+"/"))
	})
}

// options bakes args, or what the image runs, until ready.
func (b *bed) options(img *imagetest.Image, ready string, args ...string) Options {
	b.t.Helper()
	r, err := ParseReadiness(ready)
	if err != nil {
		b.t.Fatal(err)
	}
	return Options{
		ID:         "bake",
		Dir:        filepath.Join(b.dir, "bake"),
		ImagesDir:  filepath.Join(b.dir, "images"),
		Overlay:    img.Overlay(b.t),
		Spec:       img.Spec(b.t, args...),
		Ready:      r,
		RuncPath:   imagetest.Tool(b.t, "runc"),
		CRIU:       restore.CRIU{Path: imagetest.Tool(b.t, "criu")},
		CgroupPath: b.cgroup + "/bake",
		Progress: func(e *api.BakeEvent) {
			b.t.Logf("%s: %s %d/%d", e.GetStep(), e.GetMessage(), e.GetDone(), e.GetTotal())
		},
	}
}

// bake must succeed. The images are checked and removed.
func (b *bed) bake(o Options) *Result {
	b.t.Helper()
	result, err := Run(b.t.Context(), o)
	if err != nil {
		b.t.Fatal(report(err))
	}
	for _, p := range result.Phases {
		b.t.Logf("%s %.0f ms", p.GetName(), float64(p.GetNanoseconds())/1e6)
	}
	if _, err := os.Stat(filepath.Join(o.ImagesDir, "inventory.img")); err != nil {
		b.t.Error(err)
	}
	if result.ImageBytes == 0 || result.Processes == 0 || result.Threads < result.Processes {
		b.t.Errorf("result %+v", result)
	}
	for _, key := range result.StdioKeys {
		if !strings.HasPrefix(key, "pipe:[") {
			b.t.Errorf("a standard stream is %q in the images, not a pipe", key)
		}
	}
	if err := os.RemoveAll(o.ImagesDir); err != nil {
		b.t.Fatal(err)
	}
	return result
}

// fail must not succeed; it gives the error.
func (b *bed) fail(o Options) *Error {
	b.t.Helper()
	_, err := Run(b.t.Context(), o)
	e, ok := errors.AsType[*Error](err)
	if !ok {
		b.t.Fatalf("error %v is not of type *Error", err)
	}
	b.t.Log(e.Report())
	return e
}

func report(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Report()
	}
	return err.Error()
}
