package linux

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestCredsAreThoseOfAProcessThatHasDroppedThem(t *testing.T) {
	p := start(t, nil, "setpriv", "--reuid", "1001", "--regid", "1002", "--groups", "1003,1004", "--no-new-privs",
		"--bounding-set", "-all,+chown,+kill", "--inh-caps", "-all,+kill", "--ambient-caps", "-all,+kill", "sh", "-c", "echo up; read end")
	p.line(t)
	got := get[Creds](t)(ReadCreds(p.pid(), p.pid()))
	const chown, kill = 1 << unix.CAP_CHOWN, 1 << unix.CAP_KILL
	want := Creds{
		Uids: [4]int{1001, 1001, 1001, 1001}, Gids: [4]int{1002, 1002, 1002, 1002}, Groups: []int{1003, 1004},
		CapInh: kill, CapPrm: kill, CapEff: kill, CapBnd: chown | kill, CapAmb: kill, NoNewPrivs: true,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestCredsOfThisProcessAreTheKernels(t *testing.T) {
	c := get[Creds](t)(ReadCreds(os.Getpid(), os.Getpid()))
	var uids, gids [3]int
	uids[0], uids[1], uids[2] = unix.Getresuid()
	gids[0], gids[1], gids[2] = unix.Getresgid()
	if [3]int(c.Uids[:3]) != uids || [3]int(c.Gids[:3]) != gids {
		t.Errorf("got %v %v, want %v %v", c.Uids, c.Gids, uids, gids)
	}
	groups := get[[]int](t)(syscall.Getgroups())
	slices.Sort(groups)
	if diff := cmp.Diff(groups, c.Groups); diff != "" && len(groups)+len(c.Groups) > 0 {
		t.Error(diff)
	}
	for number := range 41 {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		must(t, unix.Capget(&header, &data[0]))
		want := data[number/32].Effective&(1<<(number%32)) != 0
		if got := get[bool](t)(HasCapability(number)); got != want {
			t.Errorf("capability %d: got %t, want %t", number, got, want)
		}
	}
}

func TestCredsOfOneThreadMayDifferFromAnothers(t *testing.T) {
	must(t, Enter(nil, func() error {
		tid := unix.Gettid()
		if !slices.Contains(get[[]int](t)(Threads(os.Getpid())), tid) {
			t.Errorf("thread %d is not listed", tid)
		}
		if err := unix.Setfsuid(1005); err != nil {
			return err
		}
		c, err := ReadCreds(os.Getpid(), tid)
		if want := [4]int{0, 0, 0, 1005}; c.Uids != want {
			t.Errorf("got %v, want %v", c.Uids, want)
		}
		return err
	}))
	if c := get[Creds](t)(ReadCreds(os.Getpid(), os.Getpid())); c.Uids != [4]int{} {
		t.Errorf("the main thread has %v", c.Uids)
	}
}

func TestCredsOfNoProcessAreAnError(t *testing.T) {
	if _, err := ReadCreds(1<<30, 1<<30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
	if _, err := Threads(1 << 30); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// status is what every kernel since 4.10 shows, shortened.
const status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \nCapInh:\t0000000000000001\nCapPrm:\t02\nCapEff:\t03\n" +
	"CapBnd:\t000001ffffffffff\nCapAmb:\t05\nNoNewPrivs:\t1\nSeccomp:\t2\nSpeculation_Store_Bypass:\tvulnerable\n"

func TestCredsWithALineMissingAreAnError(t *testing.T) {
	get[Creds](t)(parseCreds(status))
	for line := range strings.Lines(status) {
		_, err := parseCreds(strings.Replace(status, line, "", 1))
		name, _, _ := strings.Cut(line, ":")
		if optional := name == "Name" || name == "Seccomp" || name == "Speculation_Store_Bypass"; optional != (err == nil) {
			t.Errorf("without %s: %v", name, err)
		}
	}
	for _, wrong := range []string{"Uid:\t1\t2\t3", "Uid:\tx\t2\t3\t4", "CapBnd:\tx", "Groups:\t-", "NoNewPrivs:\tperhaps", "Seccomp:\t"} {
		name, _, _ := strings.Cut(wrong, ":")
		if _, err := parseCreds(strings.Replace(status, name, wrong+"\n"+name, 1)); err == nil {
			t.Errorf("%q: no error", wrong)
		}
	}
}

func FuzzParseCreds(f *testing.F) {
	f.Add(status)
	f.Add("Uid:\n:\n")
	f.Fuzz(func(t *testing.T, data string) {
		if c, err := parseCreds(data); err == nil && strings.Count(data, "Uid:") == 0 {
			t.Errorf("credentials out of nothing: %v", c)
		}
	})
}
