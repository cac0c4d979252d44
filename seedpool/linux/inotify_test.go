package linux

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestWatchesAreRead(t *testing.T) {
	got, err := ParseWatch("inotify wd:1f ino:a188c2 sdev:800007c mask:84000fff ignored_mask:0 fhandle-bytes:2 fhandle-type:f8 f_handle:00fb\n")
	want := Watch{WD: 31, Mask: 0x84000fff, Device: unix.Mkdev(128, 124), Inode: 0xa188c2, HandleType: 0xf8, Handle: []byte{0, 0xfb}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	for _, bad := range []string{"", "fanotify flags:1", "inotify wd:1", "inotify wd:1 ino:x sdev:1 mask:1", "inotify wd:1 ino:1 sdev:1 mask:1 f_handle:0"} {
		if w, err := ParseWatch(bad); err == nil {
			t.Errorf("%q is read as %+v", bad, w)
		}
	}
}

func TestWhatIsWatchedIsFound(t *testing.T) {
	top := t.TempDir()
	dir := func(name string) string {
		name = filepath.Join(top, name)
		if err := os.MkdirAll(name, 0o700); err != nil {
			t.Fatal(err)
		}
		return name
	}
	lower, upper, work, mount := dir("lower/deep/er"), dir("upper"), dir("work"), dir("mount")
	for _, err := range []error{os.WriteFile(lower+"/file", nil, 0o600), Overlay(mount, []string{"lowerdir=" + top + "/lower", "upperdir=" + upper, "workdir=" + work})} {
		if err != nil {
			t.Fatal(err)
		}
	}
	defer Unmount(mount)
	for _, err := range []error{os.WriteFile(mount+"/deep/new", nil, 0o600), os.WriteFile(mount+"/twice", nil, 0o600), os.Link(mount+"/twice", mount+"/again")} {
		if err != nil {
			t.Fatal(err)
		}
	}
	paths := []string{"/", top, mount, mount + "/deep", mount + "/deep/er", mount + "/deep/er/file", mount + "/deep/new", mount + "/twice"}
	fd := get[int](t)(unix.InotifyInit1(unix.IN_CLOEXEC))
	defer unix.Close(fd)
	for _, name := range paths {
		if _, err := unix.InotifyAddWatch(fd, name, unix.IN_ALL_EVENTS); err != nil {
			t.Fatal(err)
		}
	}
	var found []*Watch
	for line := range strings.Lines(string(get[[]byte](t)(os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))))) {
		if strings.HasPrefix(line, "inotify") {
			w := get[Watch](t)(ParseWatch(strings.TrimSpace(line)))
			found = append(found, &w)
		}
	}
	if err := FindWatched(os.Getpid(), found); err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(found, func(a, b *Watch) int { return a.WD - b.WD })
	var got []string
	for _, w := range found {
		got = append(got, w.Path)
	}
	paths[len(paths)-1] = "" // it has two names
	if diff := cmp.Diff(paths, got); diff != "" {
		t.Error(diff)
	}
}
