package restore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/moby/sys/mountinfo"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// accepted are the differences between an instance's mount table and that of runc's container that are no fault: what is found becomes the same in both.
var accepted = []struct {
	found *regexp.Regexp
	same  string
	why   string
}{
	{regexp.MustCompile(`^\d+ \d+ \d+:\d+ `), "", "ids of mounts and numbers of devices"},
	{regexp.MustCompile(`root=/sprout-test-\S+`), "root=CGROUP", "two containers, two cgroups"},
	{regexp.MustCompile(`(lowerdir|upperdir|workdir)=[^,]+`), "$1", "each its own layers"},
	{regexp.MustCompile(`source=systemd`), "source=cgroup", "with a cgroup namespace runc names one v1 hierarchy's mount after it"},
	{regexp.MustCompile(`(master|shared):\d+`), "$1", "numbers of peer groups"},
	{regexp.MustCompile(`source=cgroup2`), "source=cgroup", "a cgroup2 mount is the host's, and has its source"},
}

// mountsOf is the mount table of a process as it sees it, a line for each mount, without the accepted differences.
func mountsOf(t *testing.T, pid int) []string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		t.Fatal(err)
	}
	list, err := mountinfo.GetMountsFromReader(bytes.NewReader(data), nil)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, m := range list {
		line := fmt.Sprintf("%d %d %d:%d %s %s %s root=%s source=%s [%s] %s", m.ID, m.Parent, m.Major, m.Minor, m.Mountpoint, m.FSType, m.Options, m.Root, m.Source, m.Optional, m.VFSOptions)
		for _, a := range accepted {
			line = a.found.ReplaceAllString(line, a.same)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return lines
}

func TestInstanceSeesTheMountsThatRuncWouldHaveGivenIt(t *testing.T) {
	b := newBed(t, "tiny-demo")
	host := b.subdir("host")
	if err := errors.Join(os.WriteFile(host+"/file", []byte("x"), 0o644), os.Mkdir(host+"/dir", 0o755)); err != nil {
		t.Fatal(err)
	}
	shared := b.shared()
	for name, change := range map[string]func(spec *specs.Spec){
		"as ctr run makes it": func(*specs.Spec) {},
		"read-only root":      func(spec *specs.Spec) { spec.Root.Readonly = true },
		"user of its own": func(spec *specs.Spec) {
			spec.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{1000, 4}}
		},
		"binds": func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts,
				specs.Mount{Destination: "/data", Type: "bind", Source: host, Options: []string{"rbind", "ro", "nosuid"}},
				specs.Mount{Destination: "/etc/one.conf", Type: "bind", Source: host + "/file", Options: []string{"bind", "rw"}},
			)
		},
		"mounts in mounts": func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts,
				specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"noexec", "size=1m", "mode=1777"}},
				specs.Mount{Destination: "/tmp/a/dir", Type: "bind", Source: host + "/dir", Options: []string{"bind"}},
				specs.Mount{Destination: "/tmp/a/file", Type: "bind", Source: host + "/file", Options: []string{"bind", "ro"}},
			)
		},
		"binds of what is shared": func(spec *specs.Spec) {
			for _, option := range []string{"rw", "rslave", "slave", "rshared", "rprivate", "private"} {
				spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/" + option, Type: "bind", Source: shared, Options: []string{"rbind", option}})
			}
		},
		"binds of what is shared, all private": func(spec *specs.Spec) {
			spec.Linux.RootfsPropagation = "rprivate"
			for _, option := range []string{"rw", "rslave", "rshared"} {
				spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/" + option, Type: "bind", Source: shared, Options: []string{"rbind", option}})
			}
		},
		"cgroups": func(spec *specs.Spec) { spec.Mounts = append(spec.Mounts, cgroupMount) },
		"cgroups in a namespace": func(spec *specs.Spec) {
			spec.Mounts = append(spec.Mounts, cgroupMount)
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBed(t, "tiny-demo")
			asked := func() *specs.Spec {
				spec := b.img.Spec(t, shell...)
				change(spec)
				return spec
			}
			i := b.restore(b.dump(b.boot(asked())))
			twin := b.boot(asked())
			later := filepath.Join(shared, "later") // seen by who follows
			if err := linux.Tmpfs(later, "later", 0, ""); err != nil {
				t.Fatal(err)
			}
			defer func() { _ = linux.Unmount(later) }()
			if diff := cmp.Diff(mountsOf(t, twin.pid), mountsOf(t, i.pid)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// shared is a directory of the host's with a mount that others follow.
func (b *bed) shared() string {
	b.t.Helper()
	dir := b.subdir("shared")
	err := linux.Tmpfs(dir, "shared", 0, "")
	if err == nil {
		b.t.Cleanup(func() { _ = linux.Unmount(dir) })
		err = errors.Join(linux.Mount("", dir, "", syscall.MS_SHARED, ""), os.Mkdir(filepath.Join(dir, "later"), 0o755))
	}
	if err != nil {
		b.t.Fatal(err)
	}
	return dir
}

var cgroupMount = specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}}
