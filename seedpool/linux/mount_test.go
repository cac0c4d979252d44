package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOverlayShowsItsLayersAndKeepsWritesInTheUpper(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"a", "b", "upper", "work", "merged"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	must(t, os.WriteFile(dir+"/a/file", []byte("a"), 0o644))
	must(t, os.WriteFile(dir+"/b/file", []byte("b"), 0o644))
	options := []string{"lowerdir=" + dir + "/a:" + dir + "/b", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work"}
	must(t, Overlay(dir+"/merged", options))
	t.Cleanup(func() { must(t, Unmount(dir+"/merged")) })
	if got := readString(t, dir+"/merged/file"); got != "a" {
		t.Errorf("got %q", got)
	}
	must(t, os.WriteFile(dir+"/merged/file", []byte("new"), 0o644))
	if upper, lower := readString(t, dir+"/upper/file"), readString(t, dir+"/a/file"); upper != "new" || lower != "a" {
		t.Errorf("upper has %q, lower %q", upper, lower)
	}
	if err := Overlay(dir+"/none", options); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no mount point: %v", err)
	}
}

func TestOverlayHasAsManyLayersAsAnImageMayHave(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("n", 100))
	const layers = 128
	var lower []string
	for i := range layers {
		layer := fmt.Sprintf("%s/%d/fs", dir, i)
		must(t, os.MkdirAll(layer, 0o755))
		must(t, os.WriteFile(fmt.Sprintf("%s/only-%d", layer, i), nil, 0o644))
		must(t, os.WriteFile(layer+"/all", fmt.Append(nil, i), 0o644))
		lower = append(lower, layer)
	}
	for _, name := range []string{"upper", "work", "merged"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	for _, c := range []struct {
		mode, want string
		options    []string
	}{
		{"rw", "rw,relatime", []string{"upperdir=" + dir + "/upper", "workdir=" + dir + "/work", "index=off"}},
		{"ro", "ro,nosuid,relatime", []string{"ro", "nosuid", "userxattr"}},
	} {
		t.Run(c.mode, func(t *testing.T) {
			must(t, Overlay(dir+"/merged", append(c.options, "lowerdir="+strings.Join(lower, ":"))))
			t.Cleanup(func() { must(t, Unmount(dir+"/merged")) })
			if got := mountAt(t, os.Getpid(), dir+"/merged").Options; got != c.want {
				t.Errorf("mounted %s, want %s", got, c.want)
			}
			if got := readString(t, dir+"/merged/all"); got != "0" {
				t.Errorf("the first layer is %s", got)
			}
			if entries := get[[]os.DirEntry](t)(os.ReadDir(dir + "/merged")); len(entries) != layers+1 {
				t.Errorf("%d entries", len(entries))
			}
			err := os.WriteFile(dir+"/merged/new", nil, 0o644)
			if readonly := errors.Is(err, unix.EROFS); readonly != (c.mode == "ro") || !readonly && err != nil {
				t.Errorf("write: %v", err)
			}
		})
	}
	if err := Overlay(dir+"/merged", []string{"lowerdir=" + strings.Join(append(lower, dir+"/none"), ":")}); err == nil {
		t.Error("a layer that is missing: no error")
	}
}

func TestBindMountIsReadOnlyAndElseAsItsSource(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	must(t, Tmpfs(from, "source", unix.MS_NOSUID, "mode=0700,size=1m"))
	t.Cleanup(func() { must(t, Unmount(from)) })
	must(t, os.Mkdir(from+"/below", 0o755))
	must(t, Tmpfs(from+"/below", "below", 0, ""))
	for _, c := range []struct {
		readonly, recursive bool
		want                string
	}{{false, false, "rw,nosuid,relatime"}, {true, false, "ro,nosuid,relatime"}, {true, true, "ro,nosuid,relatime"}} {
		must(t, Bind(from, to, c.readonly, c.recursive))
		if got := mountAt(t, os.Getpid(), to).Options; got != c.want {
			t.Errorf("%+v: got %s", c, got)
		}
		if got := isMount(t, to+"/below"); got != c.recursive {
			t.Errorf("%+v: what is mounted below came along: %t", c, got)
		}
		must(t, Unmount(to))
	}
	must(t, Bind(from, to, false, false))
	must(t, Remount(to, unix.MS_RDONLY|unix.MS_NODEV))
	if got := mountAt(t, os.Getpid(), to).Options; got != "ro,nodev,relatime" {
		t.Errorf("remounted: %s", got)
	}
	must(t, os.WriteFile(from+"/file", nil, 0o600))
	if err := os.WriteFile(to+"/file", nil, 0o600); !errors.Is(err, unix.EROFS) {
		t.Errorf("write: %v", err)
	}
	must(t, Unmount(to))
	must(t, Unmount(to)) // once more
	must(t, Unmount(to+"/none"))
	if err := Bind(from+"/none", to, true, false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no source: %v", err)
	}
}

func TestUnmountTakesABusyMountAwayAndFollowsNoSymlink(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(dir+"/real", 0o755))
	must(t, Tmpfs(dir+"/real", "busy", 0, ""))
	must(t, os.WriteFile(dir+"/real/file", []byte("kept"), 0o600))
	open := get[*os.File](t)(os.Open(dir + "/real/file"))
	defer open.Close()
	must(t, os.Symlink("real", dir+"/link"))
	_ = Unmount(dir + "/link")
	if !exists(dir + "/real/file") {
		t.Error("a symlink was followed")
	}
	must(t, Unmount(dir+"/real"))
	if exists(dir + "/real/file") {
		t.Error("it is still in sight")
	}
	data := make([]byte, 10)
	if n, err := open.Read(data); string(data[:n]) != "kept" || err != nil {
		t.Errorf("who has it open reads %q: %v", data[:n], err)
	}
}

func TestPrivateMountsFollowTheHostsAndAreNotSeenThere(t *testing.T) {
	dir := t.TempDir()
	must(t, Tmpfs(dir, "host", 0, ""))
	t.Cleanup(func() { must(t, Unmount(dir)) })
	must(t, Mount("", dir, "", unix.MS_SHARED, ""))
	for _, name := range []string{"before", "theirs", "later"} {
		must(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	must(t, Tmpfs(dir+"/before", "before", 0, ""))
	inside, goOn := make(chan error), make(chan bool)
	go func() {
		inside <- Enter(nil, func() error {
			if err := PrivateMounts(); err != nil {
				return err
			}
			err := Tmpfs(dir+"/theirs", "theirs", 0, "")
			inside <- err
			<-goOn
			if !isMount(t, dir+"/before") || !isMount(t, dir+"/later") {
				t.Error("a mount of the host is not seen")
			}
			return nil
		})
	}()
	must(t, <-inside)
	if isMount(t, dir+"/theirs") {
		t.Error("the host sees a private mount")
	}
	must(t, Tmpfs(dir+"/later", "later", 0, ""))
	close(goOn)
	must(t, <-inside)
}

func TestMountOptionsAreFlagsPropagationAndData(t *testing.T) {
	flags, propagation, data := ParseMountOptions([]string{"rbind", "ro", "nosuid", "rw", "rslave", "size=1m", "mode=755", "suid", "noexec", "lowerdir=/a:/b"})
	if flags != unix.MS_BIND|unix.MS_REC|unix.MS_NOEXEC || propagation != unix.MS_SLAVE|unix.MS_REC || data != "size=1m,mode=755,lowerdir=/a:/b" {
		t.Errorf("got %x, %x, %q", flags, propagation, data)
	}
}
