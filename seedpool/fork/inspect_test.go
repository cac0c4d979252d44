package fork

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestSmapsAreRead(t *testing.T) {
	text := "55b9abf5b000-55b9abf5d000 r--p 00002000 fe:00 247026                     /usr/bin/my cat (deleted)\nSize:                  8 kB\nVmFlags: rd mr mw me \n" +
		"7f0000000000-7f0000001000 rw-p 00000000 00:00 0 \nRss:                   8 kB\nVmFlags: rd wr dc\n"
	want := []VMA{
		{0x55b9abf5b000, 0x55b9abf5d000, "r--p", 0x2000, "fe:00", 247026, "/usr/bin/my cat (deleted)", []string{"rd", "mr", "mw", "me"}, nil},
		{0x7f0000000000, 0x7f0000001000, "rw-p", 0, "00:00", 0, "", []string{"rd", "wr", "dc"}, nil},
	}
	got, err := parseSmaps(text)
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	for _, bad := range []string{"VmFlags: rd\n", "1-2 r--p 0 0:0 0\n", "2-1 r--p 0 0:0 0\nVmFlags: rd\n", "1-2 r 0 0:0 0\nVmFlags: rd\n", "x\n"} {
		if list, err := parseSmaps(bad); err == nil {
			t.Errorf("%q is read as %v", bad, list)
		}
	}
}

func TestMappingsAreJudged(t *testing.T) {
	for _, c := range []struct {
		name  string
		perms string
		path  string
		flags string
		want  Code
	}{
		{"private memory", "rw-p", "", "rd wr mr mw me ac", ""},
		{"memory kept from forks", "rw-p", "", "rd wr dc", ""},
		{"locked memory", "rw-p", "", "rd wr lo", ""},
		{"the vDSO's data", "r--p", "[vvar]", "rd mr pf io de dd", ""},
		{"shared anonymous memory", "rw-s", "/dev/zero (deleted)", "rd wr sh mr mw ms", ""},
		{"the same as CRIU restores it", "rw-s", "/memfd:/dev/zero (deleted)", "rd wr sh mr mw ms", ""},
		{"shared anonymous memory that cannot be read", "---s", "/dev/zero (deleted)", "sh mr mw ms", CodeMapping},
		{"a file shared for reading", "r--s", "/usr/lib/gconv.cache", "rd mr me ms", ""},
		{"a file shared for writing", "rw-s", "/tmp/hsperfdata_root/1", "rd wr sh mr mw me ms", ""},
		{"a file that may be written later", "r--s", "/tmp/x", "rd sh mr mw me ms", ""},
		{"a file shared for writing that has no name", "rw-s", "/tmp/x (deleted)", "rd wr sh mr mw me ms", CodeShared},
		{"a shared memfd", "rw-s", "/memfd:x (deleted)", "rd wr sh mr mw me ms", CodeMapping},
		{"System V memory", "rw-s", "/SYSV00000000 (deleted)", "rd wr sh mr mw me ms", ""},
		{"a ring", "rw-s", "anon_inode:[io_uring]", "rd wr sh mr mw me ms", CodeMapping},
		{"a missing page", "rw-p", "", "rd wr um", CodeLazy},
		{"a device", "rw-s", "/dev/mem", "rd wr io pf", CodeMapping},
		{"huge pages", "rw-p", "/anon_hugepage (deleted)", "rd wr ht", CodeMapping},
		{"a shadow stack", "rw-p", "", "rd wr ss", CodeMapping},
		{"a flag of tomorrow", "rw-p", "", "rd wr zz", CodeMapping},
	} {
		got := judgeMapping(VMA{Start: 1, End: 2, Perms: c.perms, Path: c.path, Flags: strings.Fields(c.flags)})
		if c.want == "" && len(got) > 0 || c.want != "" && (len(got) != 1 || got[0].Code != c.want) {
			t.Errorf("%s: %v, want %q", c.name, got, c.want)
		}
	}
}

func TestFdinfoIsRead(t *testing.T) {
	for _, c := range []struct {
		name, text string
		want       info
	}{
		{"file", "pos:\t3\nflags:\t0100002\nmnt_id:\t24\nino:\t3\n", info{pos: 3, flags: 0o100002, ino: 3}},
		{"eventfd", "eventfd-count:               1f\neventfd-id: 4\neventfd-semaphore: 1\n", info{count: 0x1f, semaphore: true}},
		{
			"epoll", "tfd:        3 events: 80000019 data: 1122334455667788  pos:0 ino:b6ca5 sdev:f\n",
			info{watches: []Watch{{3, 0x80000019, 0x1122334455667788, 0xb6ca5}}},
		},
		{
			"timer", "clockid: 1\nticks: 2\nsettime flags: 01\nit_value: (999, 5)\nit_interval: (0, 7)\n",
			info{clock: 1, ticks: 2, settime: 1, timer: Interval{Every: 7, Value: 999*time.Second + 5}},
		},
		{"signals", "sigmask:\t0000000000000800\n", info{mask: 0x800}},
		{"watches", "inotify wd:2 ino:7 sdev:1 mask:100 ignored_mask:0 \n", info{notify: []linux.Watch{{WD: 2, Mask: 0x100, Device: 1, Inode: 7}}}},
		{"lock", "lock:\t1: POSIX  ADVISORY  WRITE 7 00:13:1 0 EOF\n", info{unknown: []string{"lock:\t1: POSIX  ADVISORY  WRITE 7 00:13:1 0 EOF"}}},
	} {
		got, err := parseFdinfo(c.text)
		if diff := cmp.Diff(c.want, got, cmp.AllowUnexported(info{})); err != nil || diff != "" {
			t.Errorf("%s: %v: %s", c.name, err, diff)
		}
	}
}

func TestTimersAreRead(t *testing.T) {
	got, err := parseTimers("ID: 3\nsignal: 14/0000000000000003\nnotify: none/pid.7\nClockID: 0\nID: 1\nsignal: 34/00007fff86e452a8\nnotify: signal/tid.2634\nClockID: 1\n")
	want := []PosixTimer{{ID: 1, Clock: 1, Signal: 34, Notify: sigevThreadID, Tid: 2634, Value: 0x7fff86e452a8}, {ID: 3, Signal: 14, Notify: sigevNone, Tid: 7, Value: 3}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	for _, bad := range []string{"signal: 1/0\n", "ID: x\n", "ID: 1\nnotify: fax/pid.1\n", "ID: 1\nnotify: signal/1\n"} {
		if list, err := parseTimers(bad); err == nil {
			t.Errorf("%q is read as %v", bad, list)
		}
	}
}

func TestGroupsThatAProgramHasJoinedAreSeen(t *testing.T) {
	for text, want := range map[string]string{
		"Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n1\tlo        :     1      V3\n\t\t\t\t010000E0     1 0:00000000\t\t0\n":           "",
		"2\teth0      :     2      V3\n\t\t\t\tFB0000E0     1 0:00000000\t\t0\n\t\t\t\t010000E0     1 0:00000000\t\t0\n":                                   "FB0000E0",
		"1    lo              ff020000000000000000000000000001     1 0000000C 0\n1    lo              ff010000000000000000000000000001     1 00000008 0\n": "",
		"2    eth0            ff0200000000000000000001ff000002     1 00000004 0\n2    eth0            ff0200000000000000000000000000fb     1 00000004 0\n": "ff0200000000000000000000000000fb",
	} {
		if got := firstGroup(text); got != want {
			t.Errorf("%q: group %q, want %q", text, got, want)
		}
	}
}

func TestStatusIsRead(t *testing.T) {
	got, err := parseStatus("Name:\ta \\\\b\nNSpid:\t812\t7\nNSpgid:\t812\t7\nNSsid:\t800\t1\nSigPnd:\t10\nShdPnd:\t20\nSeccomp:\t2\nCpus_allowed:\t3\n")
	if want := (status{`a \b`, 7, 7, 1, 0x10, 0x20, 2, "3"}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	stat := "7 (a) b) S 0 7 7 0 -1 4194304 1 0 0 0 1 0 0 0 20 -5 1 0 5 0 0 0 1 1 0 0 0 0 0 0 0 0 0 0 17 1 2 1 0"
	if got, err := schedule(stat); err != nil || got != "nice -5, policy 1, priority 2" {
		t.Errorf("%q, %v", got, err)
	}
	for _, bad := range []string{"", "7 (x", "7 (x) S"} {
		if got, err := schedule(bad); err == nil {
			t.Errorf("%q is read as %q", bad, got)
		}
	}
}

func FuzzParsers(f *testing.F) {
	f.Add("1-2 r--p 0 0:0 0 /x\nVmFlags: rd\n")
	f.Add("tfd:        3 events: 80000019 data: 1122334455667788  pos:0 ino:b6ca5 sdev:f\nit_value: (1, 2)\n")
	f.Add("Name:\tx\nNSpid:\t1\n7 (x) S 1")
	f.Fuzz(func(t *testing.T, text string) {
		if list, err := parseSmaps(text); err == nil {
			for _, v := range list {
				if v.Start >= v.End || v.Flags == nil {
					t.Errorf("mapping %+v", v)
				}
				judgeMapping(v)
			}
		}
		if i, err := parseFdinfo(text); err == nil && (i.timer.Value < 0 || i.timer.Every < 0 || i.flags < 0) {
			t.Errorf("fdinfo %+v", i)
		}
		if s, err := parseStatus(text); err == nil && s.tid <= 0 {
			t.Errorf("status %+v", s)
		}
		_, _ = schedule(text)
	})
}

func TestWhatCannotBeClonedIsRefusedAndGoesOn(t *testing.T) {
	for _, c := range []struct {
		name, code string
		want       Code
	}{
		{"unix socket with a packet to read", "x = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM); x[0].send(b'')", CodeConnected},
		{"unix socket with an urgent byte", "x = socket.socketpair(); x[0].send(b'x', socket.MSG_OOB); x[0].send(b'y')", CodeConnected},
		{"unix socket with a descriptor to read", "x = socket.socketpair(); socket.send_fds(x[0], [b'x'], [0])", CodeLocked},
		{"unix socket whose other end is elsewhere", "x = socket.socketpair(); os.dup2(x[1].fileno(), 0); x[1].close(); os.fork() or (x[0].close(), time.sleep(100)); os.close(0)", CodeConnected},
		{"connection to a unix socket that has a name", "l = socket.socket(1); l.bind('\\0x'); l.listen(); c = socket.socket(1); c.connect('\\0x'); x = l.accept()", CodeConnected},
		{"connection to a unix socket not yet accepted", "l = socket.socket(1); l.bind('\\0x'); l.listen(); c = socket.socket(1); c.connect('\\0x')", CodeConnected},
		{"unix socket whose file is gone", "x = socket.socket(1); x.bind(sys.argv[0] + '.s'); os.unlink(sys.argv[0] + '.s')", CodeUnlinked},
		{"UDP socket with a packet to read", "x = socket.socket(2, 2); x.bind(('127.0.0.1', 0)); x.sendto(b'', x.getsockname())", CodeConnected},
		{"UDP socket in a group", "x = socket.socket(2, 2); x.setsockopt(0, 35, struct.pack('4s4s', b'\\xe0\\x00\\x00\\x42', b'\\x7f\\0\\0\\1'))", CodeSocket},
		{"packet socket", "x = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", CodeSocket},
		{"socket that is bound and does not listen", "x = socket.socket(); x.bind(('127.0.0.1', 0))", CodeSocket},
		{"connection with something to read", "l = socket.socket(); l.listen(); c = socket.socket(); c.connect(l.getsockname()); x = l.accept()[0]; x.send(b'x'); x.setsockopt(1, 13, struct.pack('ii', 1, 0)); x.close(); l.close(); time.sleep(0.1)", CodeConnected},
		{"netlink socket of a protocol with more state", "x = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)", CodeSocket},
		{"netlink socket with an answer to read", "x = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW); x.send(struct.pack('IHHIIB3x', 20, 18, 0x301, 1, 0, 0))", CodeConnected},
		{"MPTCP listener", "x = socket.socket(2, 1, 262); x.listen()", CodeMPTCP},
		{"connection", "l = socket.socket(); l.listen(); c = socket.socket(); c.connect(l.getsockname()); x = l.accept()", CodeConnected},
		{"connection not yet accepted", "l = socket.socket(); l.listen(); c = socket.socket(); c.connect(l.getsockname())", CodeConnected},
		{"file that sends signals to another process", "p = os.fork() or time.sleep(100); x = socket.socketpair(); fcntl.fcntl(x[0], fcntl.F_SETOWN, p)", CodeFile},
		{"inotify with an event to read", "x = libc.inotify_init(); libc.inotify_add_watch(x, b'/tmp', 0xfff); os.listdir('/tmp')", CodeNotify},
		{"inotify of a file that has two names", "y = sys.argv[0] + '.n'; os.link(sys.argv[0], y); x = libc.inotify_init(); libc.inotify_add_watch(x, y.encode(), 2)", CodeNotify},
		{"ring", "assert libc.syscall(425, 4, (ctypes.c_char * 256)()) >= 0", CodeFile},
		{"userfaultfd", "assert libc.syscall(323, 1) >= 0", CodeFile},
		{"pidfd", "x = os.pidfd_open(1)", CodeFile},
		{"large unlinked file", "x = tempfile.TemporaryFile(); x.truncate(1 << 20)", CodeUnlinked},
		{"unlinked file that is open twice", "x = tempfile.TemporaryFile(); y = open('/proc/self/fd/%d' % x.fileno(), 'wb')", CodeUnlinked},
		{"memfd", "x = os.memfd_create('x')", CodeUnlinked},
		{"locked file", "x = open(sys.argv[0] + '.lock', 'w'); fcntl.flock(x, fcntl.LOCK_EX)", CodeLocked},
		{"device", "x = open('/dev/ptmx', 'r+b', buffering=0)", CodeDevice},
		{"fifo", "os.mkfifo('/tmp/sprout-%d' % os.getpid() + sys.argv[1]); x = os.open('/tmp/sprout-%d' % os.getpid() + sys.argv[1], os.O_RDWR); os.unlink('/tmp/sprout-%d' % os.getpid() + sys.argv[1])", CodeFile},
		{"child", "if os.fork() == 0: time.sleep(100)", CodeChildren},
		{"System V semaphore", "assert libc.semget(7, 1, 0o1600) >= 0", CodeSysV},
		{"System V memory that is to be removed", "n = libc.shmget(7, 4096, 0o1600); libc.shmat.restype = ctypes.c_void_p; assert libc.shmat(n, None, 0); libc.shmctl(n, 0, None)", CodeSysV},
		{"a part of System V memory", "n = libc.shmget(7, 8192, 0o1600); libc.shmat.restype = ctypes.c_void_p; a = libc.shmat(n, None, 0); libc.munmap(ctypes.c_void_p(a), 4096)", CodeSysV},
		{"System V queue", "assert libc.msgget(7, 0o1600) >= 0", CodeSysV},
		{"timer of a thread's clock", "assert libc.timer_create(3, None, ctypes.byref(ctypes.c_void_p())) == 0", CodeTimer},
		{"children in another time namespace", "assert libc.unshare(0x80) == 0", CodeRoot},
		{"seccomp", "libc.prctl(38, 1, 0, 0, 0); f = struct.pack('HBBI', 6, 0, 0, 0x7fff0000); b = ctypes.create_string_buffer(f); assert libc.prctl(22, 2, struct.pack('H6xQ', 1, ctypes.addressof(b))) == 0", CodeSeccomp},
		{"pending signal", "signal.pthread_sigmask(signal.SIG_BLOCK, [10]); os.kill(1, 10)", CodePending},
		{"death signal", "libc.prctl(1, 10)", CodePending},
		{"shared file", "x = open(sys.argv[0] + '.map', 'w+b'); x.write(b'x' * 4096); x.flush(); y = mmap.mmap(x.fileno(), 4096); os.unlink(sys.argv[0] + '.map')", CodeShared},
		{"other priority of a thread", "threading.Thread(target=lambda: (os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0)), time.sleep(100)), daemon=True).start(); time.sleep(0.1)", CodeScheduling},
		{"pipe that leads elsewhere", "r, w = os.pipe(); os.close(w)", CodePipe},
	} {
		t.Run(c.name, func(t *testing.T) {
			script := t.TempDir() + "/x.py"
			code := "import ctypes, fcntl, mmap, os, signal, socket, struct, sys, tempfile, threading, time\nlibc = ctypes.CDLL(None)\n" +
				c.code + "\nprint('ready', flush=True)\ntime.sleep(100)\n"
			if err := os.WriteFile(script, []byte(code), 0o600); err != nil {
				t.Fatal(err)
			}
			pid := start(t, "/usr/bin/python3", script, "x")
			before := strings.Count(proc(t, pid, "maps"), "\n")
			template, err := NewTemplate(timeout(t), Source{PID: pid})
			var refused *RefusedError
			if !errors.As(err, &refused) || !errors.Is(err, ErrRefused) {
				t.Fatalf("%v, %v", template, err)
			}
			if !slices.ContainsFunc(refused.Refusals, func(r Refusal) bool { return r.Code == c.want }) {
				t.Errorf("%v, want %s", refused.Refusals, c.want)
			}
			if state := field(proc(t, pid, "status"), "State"); strings.HasPrefix(state, "T") || strings.HasPrefix(state, "t") {
				t.Errorf("the process is left %s", state)
			}
			if after := strings.Count(proc(t, pid, "maps"), "\n"); after != before {
				t.Errorf("the process has %d mappings, had %d", after, before)
			}
		})
	}
}
