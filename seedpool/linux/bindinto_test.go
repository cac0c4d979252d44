package linux

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// source is a directory of the host with one file in it.
func source(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	must(t, os.WriteFile(dir+"/file", []byte("of the host"), 0o644))
	return dir
}

// mountAt is the mount that a process has on a path; the topmost if there are several.
func mountAt(t *testing.T, pid int, point string) *mountinfo.Info {
	t.Helper()
	f := get[*os.File](t)(os.Open(fmt.Sprintf("/proc/%d/mountinfo", pid)))
	defer f.Close()
	list := get[[]*mountinfo.Info](t)(mountinfo.GetMountsFromReader(f, mountinfo.SingleEntryFilter(point)))
	if len(list) == 0 {
		t.Fatalf("process %d has no mount on %s", pid, point)
	}
	return list[len(list)-1]
}

func readString(t *testing.T, path string) string {
	t.Helper()
	return string(get[[]byte](t)(os.ReadFile(path)))
}

func TestBoundFilesAndDirectoriesAreSeenInTheContainerOnly(t *testing.T) {
	root, host := t.TempDir(), source(t)
	must(t, os.MkdirAll(root+"/there", 0o755))
	must(t, os.WriteFile(root+"/hosts", []byte("of the image"), 0o644))
	c, p := cgroup(t), container(t, "container", root)
	must(t, c.Attach(p.pid()))
	must(t, c.Freeze(t.Context()))
	must(t, BindInto(p.pid(), []BindMount{
		{host, "/there", []string{"rbind", "rw"}},
		{host, "/made/on/the/way", []string{"rbind"}},
		{host + "/file", "/hosts", []string{"bind", "ro"}},
		{host + "/file", "made/file", nil},
		{host + "/file", "/there/inner", nil}, // in the mount before
	}))
	for _, name := range []string{"there/file", "made/on/the/way/file", "hosts", "made/file", "there/inner"} {
		if got := readString(t, p.inside(name)); got != "of the host" {
			t.Errorf("%s: %q", name, got)
		}
	}
	must(t, os.WriteFile(p.inside("there/file"), []byte("of the app"), 0o644))
	if got := readString(t, host+"/file"); got != "of the app" {
		t.Errorf("what the app has written: %q", got)
	}
	if got := readString(t, root+"/hosts"); got != "of the image" {
		t.Errorf("the host sees %q in the root", got)
	}
	if err := os.WriteFile(p.inside("hosts"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to a read-only one: %v", err)
	}
	if !get[bool](t)(c.Frozen()) {
		t.Error("it was thawed")
	}
	must(t, BindInto(p.pid(), nil))
}

func TestBindTargetNeverLeadsOutOfTheContainer(t *testing.T) {
	for _, role := range []string{"container", "chroot"} {
		t.Run(role, func(t *testing.T) {
			root, host, victim := t.TempDir(), source(t), t.TempDir()
			must(t, os.WriteFile(victim+"/passwd", []byte("of the victim"), 0o644))
			up := strings.Repeat("../", 20)
			for name, to := range map[string]string{
				"absolute": victim, "relative": up + victim, "file": victim + "/passwd", "dangling": "/" + up + "run/./made/by//link/",
				"a": "b", "b": "a", "self": "/proc/self/root", "one": "/proc/1/root" + victim, "p": "/proc",
			} {
				must(t, os.Symlink(to, filepath.Join(root, name)))
			}
			p := container(t, role, root)
			for _, c := range []struct{ target, lands string }{
				{"/absolute/new", victim + "/new"},
				{"/relative/deep/new", victim + "/deep/new"},
				{"/file", victim + "/passwd"},
				{"/dangling", "/run/made/by/link"},
				{up + "etc/resolv.conf", "/etc/resolv.conf"},
				{"/absolute/../sibling", filepath.Dir(victim) + "/sibling"},
				// The magic links of procfs are taken by their text, so they lead to some file of the container's own.
				{"/one/x", map[string]string{"container": "", "chroot": root}[role] + victim + "/x"},
				{"/self/x", ""},
				{"/a/x", ""},
				{"/", ""},
				{"..", ""},
				{"", ""},
				{"/a/../..", ""},
				{"/proc/cpuinfo", ""},
				{"/proc/sys/kernel", ""},
				{"/proc", ""},
				{"/proc/1/new", ""},
				{"/p", ""},
				{"/p/version", ""},
				{"/file/below-a-file", ""},
				{"/with\x00null", ""},
				{strings.Repeat("/long", 2000), ""},
			} {
				err := BindInto(p.pid(), []BindMount{{host + "/file", c.target, nil}})
				if (err == nil) != (c.lands != "") {
					t.Errorf("%.50q: %v", c.target, err)
					continue
				}
				if c.lands != "" && readString(t, p.inside(c.lands)) != "of the host" {
					t.Errorf("%q did not land on %s", c.target, c.lands)
				}
			}
			if err := BindInto(p.pid(), []BindMount{{host, "/proc/sys", nil}}); err == nil {
				t.Error("a directory on procfs is taken")
			}
			entries := get[[]os.DirEntry](t)(os.ReadDir(victim))
			if len(entries) != 1 || readString(t, victim+"/passwd") != "of the victim" {
				t.Errorf("the victim is hit: %v", entries)
			}
			if exists(filepath.Dir(victim) + "/sibling") {
				t.Error("something was made beside the victim")
			}
		})
	}
}

func TestBindWithoutAFittingTargetIsAnError(t *testing.T) {
	root, host := t.TempDir(), source(t)
	must(t, os.Mkdir(root+"/directory", 0o755))
	must(t, os.WriteFile(root+"/file", nil, 0o644))
	p := container(t, "container", root)
	for _, m := range []BindMount{
		{host, "/file", nil},
		{host + "/file", "/directory", nil},
		{host + "/none", "/new", nil},
		{host, "/new", []string{"bind", "size=1m"}},
		{host, "/new", []string{"rbind", "idmap"}},
		{host, "/new", []string{"rbind", ""}},
	} {
		if err := BindInto(p.pid(), []BindMount{m}); err == nil {
			t.Errorf("%v: no error", m)
		}
	}
	if exists(p.inside("new")) {
		t.Error("a mount point was made for a mount that cannot be")
	}
	if err := BindInto(1<<30, []BindMount{{host, "/x", nil}}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no process: %v", err)
	}
}

func TestBindOptionsAreThoseOfTheMountAndOfNoOtherAsWithRunc(t *testing.T) {
	// The source is a file system of its own that is nosuid, with another one in it.
	host := t.TempDir()
	must(t, Tmpfs(host, "outer", unix.MS_NOSUID|unix.MS_NOATIME, ""))
	t.Cleanup(func() { must(t, Unmount(host)) })
	must(t, os.Mkdir(host+"/inner", 0o755))
	must(t, Tmpfs(host+"/inner", "inner", 0, ""))
	p := container(t, "container", t.TempDir())
	for i, c := range []struct{ options, outer, inner string }{
		{"rbind", "rw,nosuid,noatime", "rw,relatime"},
		{"rbind,rw", "rw,noatime", "rw,relatime"},
		{"rbind,ro", "ro,noatime", "rw,relatime"},
		{"rbind,rro", "ro,nosuid,noatime", "ro,relatime"},
		{"rbind,ro,rrw", "rw,noatime", "rw,relatime"},
		{"rbind,nosuid,nodev,noexec,ro", "ro,nosuid,nodev,noexec,noatime", "rw,relatime"},
		{"rbind,ro,rw,noexec,exec,nodev", "rw,nodev,noatime", "rw,relatime"},
		{"rbind,strictatime,nodiratime", "rw,nodiratime", "rw,relatime"},
		{"rbind,relatime,sync,defaults", "rw,relatime", "rw,relatime"},
		{"rbind,rnoexec,rnosuid,rnodev", "rw,nosuid,nodev,noexec,noatime", "rw,nosuid,nodev,noexec,relatime"},
		{"bind,ro,nosymfollow", "ro,noatime,nosymfollow", ""},
	} {
		target := fmt.Sprintf("/m%d", i)
		must(t, BindInto(p.pid(), []BindMount{{host, target, strings.Split(c.options, ",")}}))
		if got := mountAt(t, p.pid(), target).Options; got != c.outer {
			t.Errorf("%s: got %s, want %s", c.options, got, c.outer)
		}
		if c.inner == "" {
			if isMount(t, p.inside(target+"/inner")) {
				t.Errorf("%s: what is mounted below came along", c.options)
			}
			continue
		}
		if got := mountAt(t, p.pid(), target+"/inner").Options; got != c.inner {
			t.Errorf("%s: below: got %s, want %s", c.options, got, c.inner)
		}
	}
	if got := mountAt(t, os.Getpid(), host).Options; got != "rw,nosuid,noatime" {
		t.Errorf("the source is %s now", got)
	}
}

func isMount(t *testing.T, dir string) bool {
	t.Helper()
	var a, b unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, dir, 0, unix.STATX_MNT_ID, &a))
	must(t, unix.Statx(unix.AT_FDCWD, filepath.Dir(dir), 0, unix.STATX_MNT_ID, &b))
	return a.Mnt_id != b.Mnt_id
}

func TestMountsMadeLaterTravelAsTheOptionsSay(t *testing.T) {
	host := t.TempDir()
	must(t, Tmpfs(host, "shared", 0, ""))
	t.Cleanup(func() { must(t, Unmount(host)) })
	must(t, Mount("", host, "", unix.MS_SHARED, ""))
	p := container(t, "container", t.TempDir())
	kinds := []string{"", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable"}
	for _, kind := range kinds {
		options := []string{"rbind"}
		if kind != "" {
			options = append(options, kind)
		}
		must(t, BindInto(p.pid(), []BindMount{{host, "/x" + kind, options}}))
	}
	must(t, os.Mkdir(host+"/later", 0o755))
	must(t, Tmpfs(host+"/later", "later", 0, ""))
	var sees []string
	for _, kind := range kinds {
		if isMount(t, p.inside("x"+kind+"/later")) {
			sees = append(sees, kind)
		}
	}
	if diff := cmp.Diff([]string{"", "slave", "rslave", "shared", "rshared"}, sees); diff != "" {
		t.Error(diff)
	}
	must(t, Enter([]NS{{0, namespace(t, p.pid())}}, func() error {
		for _, kind := range []string{"", "shared"} {
			dir := "/x" + kind + "/back" + kind
			if err := errors.Join(os.Mkdir(dir, 0o755), Tmpfs(dir, "back", 0, "")); err != nil {
				return err
			}
		}
		return nil
	}))
	if isMount(t, host+"/back") || !isMount(t, host+"/backshared") {
		t.Error("what the container mounts: a slave's is seen by the host, or a shared one's is not")
	}
}

func namespace(t *testing.T, pid int) *os.File {
	t.Helper()
	f := get[*os.File](t)(NSFile(pid, "mnt"))
	t.Cleanup(func() { must(t, f.Close()) })
	return f
}

// FuzzResolve: whatever a path goes through, it ends below the root at something that is no symlink.
func FuzzResolve(f *testing.F) {
	dir := f.TempDir()
	for name, to := range map[string]string{"up": "../../..", "abs": "/dir", "loop": "loop", "self": "dir/../up/dir", "gone": "/a/b/../c"} {
		must(f, os.Symlink(to, filepath.Join(dir, name)))
	}
	must(f, os.MkdirAll(dir+"/dir/sub", 0o755))
	must(f, os.Symlink("../../abs/sub", dir+"/dir/back"))
	root := get[*os.File](f)(os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0))
	f.Cleanup(func() { must(f, root.Close()) })
	for _, seed := range []string{"", "/", "up/up/dir/back/..", "abs/sub", "self/../gone/x", "loop", "dir//./back/sub/../../../../..", "none/../up"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, target string) {
		resolved, err := resolve(root, target)
		if err != nil {
			return
		}
		if !filepath.IsAbs(resolved) || filepath.Clean(resolved) != resolved || slices.Contains(elements(resolved), "..") {
			t.Fatalf("%q resolves to %q", target, resolved)
		}
		if link, err := linkBelow(root, resolved); link != "" || errors.Is(err, unix.ELOOP) {
			t.Fatalf("%q resolves to %q, which goes through a symlink: %q %v", target, resolved, link, err)
		}
	})
}
