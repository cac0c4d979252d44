package keeper

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sproutrun/sprout/seedpool/bake"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// fork makes an instance by cloning the template.
func (b *bed) fork(id string) *api.Instance {
	b.t.Helper()
	i, err := b.tryFork(id)
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, "template", "images", "restore.log"))
		said, _ := os.ReadFile(b.config.Socket + ".log")
		b.t.Fatalf("%v\n%s\n%s", err, log, said)
	}
	return i
}

func (b *bed) tryFork(id string) (*api.Instance, error) {
	b.t.Helper()
	r := b.request(id)
	r.Template = b.templatePlace()
	resp, err := b.Make(b.t.Context(), r)
	if err != nil {
		return nil, err
	}
	for _, p := range resp.Phases {
		b.t.Logf("%s: %-6s %.1f ms", id, p.Name, float64(p.Nanoseconds)/1e6)
	}
	return resp.Instance, nil
}

func (b *bed) templatePlace() *api.TemplatePlace {
	return &api.TemplatePlace{Dir: filepath.Join(b.dir, "template"), Cgroup: b.root + "/template"}
}

func TestClonesAnswerAndEndLikeRestoredInstances(t *testing.T) {
	for app, ready := range map[string]string{
		"python-demo": "http://:8080/", "node-demo": "http://:8080/", "tomcat-demo": "http://:8080/", "redis-demo": "tcp://:6379",
	} {
		t.Run(app, func(t *testing.T) {
			b := newBed(t, app, ready)
			restored := b.make("restored")
			shared := map[string]bool{}
			var clones []*api.Instance
			for _, id := range []string{"one", "two", "three"} {
				i := b.fork(id)
				clones = append(clones, i)
				c := linux.Cgroup{Path: i.Cgroup}
				if frozen, err := c.Frozen(); err != nil || !frozen {
					t.Fatalf("frozen %v, %v", frozen, err)
				}
				if diff := cmp.Diff(restored.Credentials, i.Credentials, protocmp.Transform()); diff != "" {
					t.Errorf("credentials: %s", diff)
				}
				b.runs(i, ready)
				for _, file := range writtenFiles(t, int(i.Pid)) {
					if shared[file] {
						t.Errorf("%s is another's, too", file)
					}
					shared[file] = true
				}
			}
			if app == "tomcat-demo" && len(shared) != len(clones) {
				t.Errorf("files that are mapped to be written: %v", shared)
			}
			clones[0] = b.sleepAndWake(clones[0], clones[1], ready)
			for _, i := range clones {
				if err := syscall.Kill(int(i.Pid), syscall.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if e := exitOf(t, i); syscall.WaitStatus(e.Status).Signal() != syscall.SIGKILL {
					t.Errorf("exit %+v", e)
				}
			}
		})
	}
}

// writtenFiles are the files that a process has mapped to write to them, by device and number.
func writtenFiles(t *testing.T, pid int) (list []string) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 6 || fields[1][1] != 'w' || fields[1][3] != 's' || !strings.Contains(fields[5], "hsperfdata") {
			continue
		}
		var st syscall.Stat_t
		if err := syscall.Stat(fmt.Sprintf("/proc/%d/map_files/%s", pid, fields[0]), &st); err != nil {
			t.Fatal(err)
		}
		list = append(list, fmt.Sprintf("%d:%d", st.Dev, st.Ino))
	}
	return list
}

// confined is a spec as container engines make them for a service with a user of its own.
func confined(s *specs.Spec) {
	caps := []string{"CAP_CHOWN", "CAP_NET_BIND_SERVICE", "CAP_KILL", "CAP_SETPCAP"}
	s.Process.User = specs.User{UID: 1000, GID: 1000, AdditionalGids: []uint32{4, 1000}}
	s.Process.NoNewPrivileges = true
	s.Process.Capabilities = &specs.LinuxCapabilities{
		Bounding: caps, Permitted: []string{"CAP_NET_BIND_SERVICE"}, Effective: []string{"CAP_NET_BIND_SERVICE"},
		Inheritable: []string{"CAP_NET_BIND_SERVICE"}, Ambient: []string{"CAP_NET_BIND_SERVICE"},
	}
	s.Linux.Seccomp = seccomp.DefaultProfile(s)
}

func TestCloneHasTheCredentialsOfTheContainerThatWasBaked(t *testing.T) {
	for _, app := range []string{"python-demo", "node-demo"} {
		t.Run(app, func(t *testing.T) {
			b := prepareBed(t, app)
			b.bake(b.img.Spec(t), "http://:8080/", confined)
			b.spawn()
			restored, cloned := b.make("restored"), b.fork("cloned")
			want := credentialLines(t, restored)
			got := credentialLines(t, cloned)
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			if len(want) < 2 || !strings.Contains(want[0], "Seccomp:\t2") || !strings.Contains(want[0], "Uid:\t1000\t1000\t1000\t1000") {
				t.Errorf("the container was not confined: %s", want)
			}
			if err := (linux.Cgroup{Path: cloned.Cgroup}).Thaw(); err != nil {
				t.Fatal(err)
			}
			if err := bake.Probe(t.Context(), int(cloned.Pid), mustReady(t, "http://:8080/")); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// credentialLines are what /proc says of the rights of each of an instance's threads.
func credentialLines(t *testing.T, i *api.Instance) (list []string) {
	t.Helper()
	tids, err := linux.Threads(int(i.Pid))
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(tids)
	for _, tid := range tids {
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", i.Pid, tid))
		if err != nil {
			t.Fatal(err)
		}
		var kept strings.Builder
		for line := range strings.Lines(string(status)) {
			switch name, _, _ := strings.Cut(line, ":"); name {
			case "Name", "Uid", "Gid", "Groups", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Seccomp_filters", "SigIgn", "SigCgt":
				kept.WriteString(line)
			case "NSpid":
				fields := strings.Fields(line)
				kept.WriteString("tid " + fields[len(fields)-1] + "\n")
			}
		}
		list = append(list, kept.String())
	}
	return list
}

func TestManyClonesOneAfterTheOtherLeaveNothing(t *testing.T) {
	const before, clones = 5, 300
	b := newBed(t, "python-demo", "http://:8080/")
	hello, err := b.ListInstances(t.Context(), &api.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	var zygote []int
	var counts [2]string
	for n := range before + clones {
		id := fmt.Sprintf("clone-%d", n)
		i := b.fork(id)
		if _, err := b.Kill(t.Context(), &api.InstanceRef{Id: id}); err != nil {
			t.Fatal(err)
		}
		if err := (linux.Cgroup{Path: i.Cgroup}).Remove(); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(filepath.Join(b.dir, id)); err != nil {
			t.Fatal(err)
		}
		if n == before-1 {
			zygote, err = linux.Cgroup{Path: b.root + "/template/awake"}.Procs()
			if err != nil || len(zygote) != 1 {
				t.Fatalf("zygotes %v, %v", zygote, err)
			}
			counts[0] = held(t, int(hello.Pid), zygote[0])
		}
	}
	if counts[1] = held(t, int(hello.Pid), zygote[0]); counts[0] != counts[1] {
		t.Errorf("after %d clones: %s; %d later: %s", before, counts[0], clones, counts[1])
	}
}

// held counts what a keeper and a zygote have open, mounted and mapped.
func held(t *testing.T, keeper, zygote int) string {
	t.Helper()
	lines := func(pid int, file string) int {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil {
			t.Fatal(err)
		}
		return strings.Count(string(data), "\n")
	}
	files := func(pid int) int {
		list, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
		if err != nil {
			t.Fatal(err)
		}
		return len(list)
	}
	return fmt.Sprintf("zygote %d files, %d mappings; keeper %d mounts, about %d files", files(zygote), lines(zygote, "maps"), lines(keeper, "mountinfo"), files(keeper)/10*10)
}

func TestTemplateThatIsRefusedLeavesNothing(t *testing.T) {
	b := newBed(t, "python-demo", "file=/tmp/up", "python3", "-c", `import os, time
x = os.memfd_create("x")
open('/tmp/up', 'w').close()
while True: time.sleep(0.1)`)
	for range 2 {
		_, err := b.tryFork(fmt.Sprintf("refused-%d", time.Now().UnixNano()))
		if !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) || !strings.Contains(err.Error(), "memfd") {
			t.Fatalf("got %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(b.dir, "template")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	if pids, err := (linux.Cgroup{Path: b.root}).ProcsBelow(); err != nil || len(pids) > 0 {
		t.Errorf("processes %v, %v", pids, err)
	}
	b.make("restored")
}

func TestATemplateWhoseZygoteHasDiedIsFollowedByAnother(t *testing.T) {
	b := newBed(t, "python-demo", "http://:8080/")
	var clones []*api.Instance
	for n := range mostGenerations + 1 {
		i, err := b.tryFork(fmt.Sprint("clone-", n))
		if n == mostGenerations {
			if !errdefs.IsFailedPrecondition(errgrpc.ToNative(err)) {
				t.Errorf("after %d zygotes: %v", n, err)
			}
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		clones = append(clones, i)
		zygote, err := linux.Cgroup{Path: b.root + "/template/awake"}.Procs()
		if err != nil || len(zygote) != 1 {
			t.Fatalf("zygotes %v, %v", zygote, err)
		}
		if err := syscall.Kill(zygote[0], syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		// Whoever is the first to ask learns that it has died; after that there is another, or none.
		if _, err := b.tryFork(fmt.Sprint("lost-", n)); err == nil {
			t.Error("a clone of a dead zygote")
		}
	}
	for _, i := range clones {
		b.answers(i)
	}
}

func TestATemplateIsGivenUpAndMadeAgainAndItsClonesGoOn(t *testing.T) {
	b := newBed(t, "python-demo", "http://:8080/")
	give := &api.GiveUpRequest{Template: true, Memory: true}
	for n := range mostGenerations + 1 {
		if had, err := b.GiveUp(t.Context(), give); err != nil || had.Template != (n > 0) || had.Memory {
			t.Fatalf("before clone %d there was %v, %v", n, had, err)
		}
		if pids, err := (linux.Cgroup{Path: b.root + "/template"}).ProcsBelow(); len(pids) > 0 || err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its processes %v, %v", pids, err)
		}
		r := b.request(fmt.Sprint("template-", n))
		r.Template = b.templatePlace()
		if _, err := b.MakeTemplate(t.Context(), r); err != nil {
			t.Fatal(err)
		}
		if hello, err := b.ListInstances(t.Context(), &api.Empty{}); err != nil || !hello.Template || len(hello.Instances) != n {
			t.Errorf("with a template: %v, %v", hello, err)
		}
		b.answers(b.fork(fmt.Sprint("clone-", n)))
	}
}
