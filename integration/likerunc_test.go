package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/integration/stack"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// demandingUID is the user of demanding's app.
const demandingUID = 1000

// demanding is a spec with something of all that a woken container is to have: volumes and files late and not, devices, limits, settings, another user.
func demanding(t *testing.T) []oci.SpecOpts {
	t.Helper()
	dir := t.TempDir()
	for _, sub := range []string{"late", "slave", "data"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	shared := sharedMount(t)
	score, umask, mode := 321, uint32(0o27), os.FileMode(0o640)
	return []oci.SpecOpts{
		oci.WithProcessArgs("perl", "-e", witnessed), oci.WithHostname("twin"), oci.WithDomainname("example"), oci.WithProcessCwd("/tmp"),
		oci.WithUserID(demandingUID), oci.WithAdditionalGIDs("1000"), oci.WithNoNewPrivileges, oci.WithRootFSReadonly(), oci.WithMemoryLimit(256 << 20),
		oci.WithPidsLimit(50), oci.WithCPUShares(512),
		oci.WithMounts([]specs.Mount{
			{Destination: "/late-ro", Type: "bind", Source: filepath.Join(dir, "late"), Options: []string{"rbind", "ro", "nosuid", "rprivate"}},
			{Destination: "/late-slave", Type: "bind", Source: filepath.Join(dir, "slave"), Options: []string{"rbind", "rslave"}},
			{Destination: "/etc/hosts", Type: "bind", Source: "/etc/hosts", Options: []string{"bind", "ro"}},
			{Destination: "/data", Type: "bind", Source: filepath.Join(dir, "data"), Options: []string{"rbind", "rprivate", "noexec"}},
			{Destination: "/follows", Type: "bind", Source: shared, Options: []string{"rbind", "ro"}},
			{Destination: "/late-follows", Type: "bind", Source: shared, Options: []string{"rbind"}},
			{Destination: "/scratch", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "size=64k", "mode=1777"}},
		}),
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *oci.Spec) error {
			s.Process.OOMScoreAdj, s.Process.User.Umask = &score, &umask
			s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE", Soft: 0, Hard: 0}, specs.POSIXRlimit{Type: "RLIMIT_NPROC", Soft: 99, Hard: 99})
			s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "80", "kernel.msgmax": "9000"}
			s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229, FileMode: &mode})
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Access: "rw"})
			return nil
		},
		seccomp.WithDefaultProfile(),
	}
}

// sharedMount is a directory of the host's with a mount that others follow.
func sharedMount(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	err := mount.All([]mount.Mount{{Type: "tmpfs", Source: "tmpfs"}}, dir)
	if err == nil {
		t.Cleanup(func() { _ = mount.Unmount(dir, 0) })
		err = linux.Mount("", dir, "", syscall.MS_SHARED, "")
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestAWokenContainerIsWhatRuncWouldHaveStarted(t *testing.T) {
	opts := demanding(t)
	twins := make(map[*stack.Stack]state)
	for _, way := range wakes {
		t.Run(way.name, func(t *testing.T) {
			s := house
			if way.clones {
				s = forking(t)
			}
			if twins[s] == nil {
				log := filepath.Join(t.TempDir(), "log")
				task := createBy(t, s, "twin-runc", "tiny-demo", stack.RuncRuntime, cio.LogFile(log), opts...)
				if err := task.Start(s.Context(t.Context())); err != nil {
					t.Fatal(err)
				}
				awaitFile(t, log, "ready\n")
				twins[s] = seen(t, s, "twin-runc")
			}
			seed := baked(t, s, "demanding", "tiny-demo", "--like", "twin-runc", "--ready", "log=^ready$", "--late-mount", "/late-ro", "--late-mount", "/late-slave", "--late-mount", "/late-follows")
			if way.rung == "fork" {
				setPool(t, s, seed, 1) // so that the template stands
			}
			setPool(t, s, seed, min(way.spares, 1))
			id := "twin-" + way.name
			task := create(t, s, id, "tiny-demo", cio.NullIO, opts...)
			if err := task.Start(s.Context(t.Context())); err != nil {
				t.Fatal(err)
			}
			wantRung(t, s, id, way.rung)
			if diff := cmp.Diff(twins[s], seen(t, s, id)); diff != "" {
				t.Errorf("it differs from the one that runc started:\n%s", diff)
			}
		})
	}
}

// look prints, inside a container, what its first process may do and has.
const look = `hostname; domainname; id; stat -c '%n %A %u:%g %t:%T %N' /dev/*; cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/msgmax; ls -a / /tmp /scratch
for f in /proc/kcore /proc/sys /sys /; do touch $f/x 2>&1; done; head -c 5 /dev/fuse 2>&1; awk '{print $19, $20, $40, $41}' /proc/1/stat; cut -d: -f2 /proc/1/cgroup | wc -l`

// seen is what can be seen of a container from inside, and of its first process from outside.
func seen(t *testing.T, s *stack.Stack, id string) state {
	t.Helper()
	out, err := s.Ctr(t.Context(), "task", "exec", "--exec-id", "look", id, "sh", "-c", look)
	if err != nil {
		t.Fatal(err, out)
	}
	st := state{}
	for n, line := range strings.Split(strings.TrimSpace(out), "\n") {
		if !strings.HasPrefix(line, "time=") { // ctr's own
			st[fmt.Sprintf("inside %03d", n)] = line
		}
	}
	dir := fmt.Sprintf("/proc/%d", pid(t, s, id))
	for _, file := range []string{"limits", "oom_score_adj", "environ", "cmdline", "personality", "coredump_filter", "loginuid", "timerslack_ns"} {
		data, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		st[file] = string(data)
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		t.Fatal(err)
	}
	all := lines(string(status))
	for _, name := range statusLines {
		st["status "+name] = all[name]
	}
	for _, limit := range [][3]string{{"memory", "memory.limit_in_bytes", "memory.max"}, {"pids", "pids.max", "pids.max"}, {"cpu", "cpu.shares", "cpu.weight"}} {
		st["limit "+limit[0]] = limitOf(t, uint32(pid(t, s, id)), limit[0], limit[1], limit[2])
	}
	st.addMounts(t, dir)
	return st
}

// addMounts adds each mount with its options and how events spread to it. What an instance finds out about itself only a woken container has.
func (s state) addMounts(t *testing.T, dir string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(dir, "mountinfo"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Fields(line)
		dash := slices.Index(fields, "-")
		point, kind, super := fields[4], fields[dash+1], fields[dash+3]
		if point == "/run/sprout" {
			continue
		}
		var spread []string
		for _, field := range fields[6:dash] {
			name, _, _ := strings.Cut(field, ":")
			spread = append(spread, name)
		}
		if kind == "overlay" {
			super = "" // names directories
		}
		super = strings.TrimSuffix(super, ",nr_inodes=1")
		s["mount "+point] += fmt.Sprint(fields[5], spread, kind, " ", super, ";")
	}
}
