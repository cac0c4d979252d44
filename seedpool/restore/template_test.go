package restore

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"

	criucore "github.com/checkpoint-restore/go-criu/v8/crit/images/criu-core"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/fdinfo"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/pstree"
	"github.com/checkpoint-restore/go-criu/v8/crit/images/seccomp"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// holder is a pid namespace for templates, and its init's mount namespace, in which /proc is its own.
func (b *bed) holder() (pid, mounts *os.File) {
	b.t.Helper()
	cmd := exec.Command("/bin/sh", "-c", "mount -t proc proc /proc && echo ready && exec cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		b.t.Fatalf("holder says %q: %v", line, err)
	}
	var files [2]*os.File
	for n, name := range []string{"pid", "mnt"} {
		if files[n], err = linux.NSFile(cmd.Process.Pid, name); err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() { _ = files[n].Close() })
	}
	return files[0], files[1]
}

// allCaps are the capabilities of the test itself.
func allCaps(t *testing.T) uint64 {
	t.Helper()
	own, err := linux.ReadCreds(os.Getpid(), os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	return own.CapPrm
}

func TestTemplateIsTheProcessWithOtherIdsAndAllPrivileges(t *testing.T) {
	b := newBed(t, "python-demo")
	c := b.boot(b.img.Spec(t))
	before, tids := b.threads(c.pid)
	if len(tids) < 2 {
		t.Fatalf("it has threads %v only", tids)
	}
	s := b.dump(c)
	untouched := changes(t, s.images)
	p := b.prepare(s)
	o := TemplateOptions{Options: p.o, Caps: allCaps(t)}
	o.PIDNS, o.MountNS = b.holder()
	o.WorkDir, o.CgroupNS = b.subdir("template"), false
	made, err := Template(t.Context(), b.criu, o)
	err = errors.Join(err, p.staged.Unstage())
	if err != nil {
		log, _ := os.ReadFile(o.WorkDir + "/restore.log")
		t.Fatalf("%s\n%v\n%s", report(err), errors.Unwrap(err), log)
	}
	pid, origin := made[0].PID, made[0].Origin
	t.Cleanup(func() {
		_ = p.cgroup.Kill()
		_, _ = syscall.Wait4(pid, nil, 0, nil)
	})
	_, spent := stateAndTicks(t, pid) // CRIU's own work in it
	if err := p.cgroup.Thaw(); err != nil {
		t.Fatal(err)
	}
	after, now := b.threads(pid)
	for n, tid := range now {
		if origin.Tids[tid] != tids[n] || tid != tids[n]+templateBase {
			t.Errorf("thread %d was %d, the origin says %d", tid, tids[n], origin.Tids[tid])
		}
	}
	if len(now) != len(tids) {
		t.Errorf("threads %v, were %v", now, tids)
	}
	want := slices.Clone(before)
	for n := range want {
		want[n].CapEff, want[n].CapPrm, want[n].Seccomp = o.Caps, o.Caps, 0
	}
	if diff := cmp.Diff(want, after); diff != "" {
		t.Error(diff)
	}
	first := before[0]
	if origin.Effective != first.CapEff || origin.Permitted != first.CapPrm || origin.Inheritable != first.CapInh {
		t.Errorf("origin %+v, was %+v", origin, first)
	}
	state, ticks := stateAndTicks(t, pid)
	if state != "T" && state != "R" && state != "S" {
		t.Errorf("state %s", state)
	}
	if ticks != spent {
		t.Errorf("it has run for %s ticks, was made in %s", ticks, spent)
	}
	if err := os.RemoveAll(o.WorkDir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(untouched, changes(t, s.images)); diff != "" {
		t.Errorf("the seed's files were touched, and would be read again to see whether they are right: %s", diff)
	}
}

// changes are the times at which the files of a directory, or what stat says of them, were changed last.
func changes(t *testing.T, dir string) map[string]syscall.Timespec {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	times := make(map[string]syscall.Timespec)
	for _, entry := range list {
		var st syscall.Stat_t
		if err := syscall.Lstat(dir+"/"+entry.Name(), &st); err != nil {
			t.Fatal(err)
		}
		times[entry.Name()] = st.Ctim
	}
	return times
}

// stateAndTicks are the state of a process and how long it was in user mode.
func stateAndTicks(t *testing.T, pid int) (state, ticks string) {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	return fields[0], fields[11]
}

// threads are the credentials of a process's threads and their ids in its own pid namespace.
func (b *bed) threads(pid int) (list []linux.Creds, tids []int) {
	b.t.Helper()
	ids, err := linux.Threads(pid)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, id := range ids {
		creds, err := linux.ReadCreds(pid, id)
		if err != nil {
			b.t.Fatal(err)
		}
		status, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/status", pid, id))
		if err != nil {
			b.t.Fatal(err)
		}
		var own int
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "NSpid:"); ok {
				all := strings.Fields(value)
				if _, err := fmt.Sscan(all[len(all)-1], &own); err != nil {
					b.t.Fatal(err)
				}
			}
		}
		list, tids = append(list, creds), append(tids, own)
	}
	return list, tids
}

func TestWhatCannotBeATemplateIsRefused(t *testing.T) {
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, shell...)))
	tree := b.dump(b.boot(b.img.Spec(t, "sh", "-c", "sh -c 'sleep 1000 & wait' & sleep 1; echo up; wait")))
	copied := func(change func(dir string) error) string {
		dir := b.subdir("changed")
		if err := errors.Join(copyOthers(s.images, dir, nil), change(dir)); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	for name, c := range map[string]struct {
		images string
		want   error
	}{
		"a deep tree": {tree.images, ErrNoTemplate},
		"a file of a kind that is not known": {copied(func(dir string) error {
			return os.WriteFile(dir+"/bpfmap-1.img", nil, 0o600)
		}), ErrNoTemplate},
		"half a core": {copied(func(dir string) error { return os.Truncate(dir+"/core-1.img", 40) }), ErrImage},
		"no ids":      {copied(func(dir string) error { return os.Remove(dir + "/ids-1.img") }), ErrImage},
		"a filter that is not there": {copied(func(dir string) error {
			core, err := checkCore(dir, 1)
			if err != nil {
				return err
			}
			core.ThreadCore.SeccompMode, core.ThreadCore.SeccompFilter = criucore.SeccompMode_filter.Enum(), proto.Uint32(7)
			return errors.Join(writeImage(dir+"/core-1.img", "CORE", core), writeImage(dir+"/seccomp.img", "SECCOMP", &seccomp.SeccompEntry{}))
		}), ErrImage},
		"a file that signals somebody else": {copied(func(dir string) error {
			var first fdinfo.FileEntry
			if err := one(dir+"/files.img", &first); err != nil {
				return err
			}
			first.Reg.Fown.Pid = proto.Uint32(4242)
			return writeImage(dir+"/files.img", "FILES", &first)
		}), ErrNoTemplate},
		"too high a number": {copied(func(dir string) error {
			var tree pstree.PstreeEntry
			if err := one(dir+"/pstree.img", &tree); err != nil {
				return err
			}
			tree.Threads = append(tree.Threads, 30000)
			return writeImage(dir+"/pstree.img", "PSTREE", &tree)
		}), ErrNoTemplate},
	} {
		if list, err := editTemplate(c.images, b.subdir("template"), allCaps(t)); !errors.Is(err, c.want) {
			t.Errorf("%s: %+v, %v", name, list, err)
		}
	}
}
