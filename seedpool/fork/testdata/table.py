# A random table of descriptors, always the same for a number: "table.py NUMBER DIRECTORY". It says "ready" on its standard output.
import ctypes, fcntl, os, random, signal, socket, struct, sys, time

r = random.Random(int(sys.argv[1]))
top = sys.argv[2]
libc = ctypes.CDLL(None, use_errno=True)
NR = {"timerfd_create": 283, "timerfd_settime": 286, "signalfd4": 289}
keep, pollable, removable = [], [], []

def call(name, *args):
    got = libc.syscall(NR[name], *args)
    assert got >= 0, (name, args, ctypes.get_errno())
    return got

def some(*flags):
    return sum(f for f in flags if r.random() < 0.5)

def file():
    path = top + "/file%d" % r.randrange(8)
    with open(path, "ab") as f: f.write(r.randbytes(r.randrange(100)))
    fd = os.open(path, r.choice((os.O_RDONLY, os.O_WRONLY, os.O_RDWR)) | some(os.O_APPEND, os.O_NONBLOCK, os.O_CLOEXEC, os.O_NOATIME, os.O_SYNC))
    os.lseek(fd, r.randrange(200), 0)
    removable.append(fd)

def path():
    removable.append(os.open(r.choice((top, "/etc/passwd")), os.O_PATH | some(os.O_CLOEXEC)))

def unlinked():
    fd = os.open(top + "/gone", os.O_CREAT | os.O_EXCL | some(os.O_NOFOLLOW) | r.choice((os.O_WRONLY, os.O_RDWR)) | some(os.O_APPEND, os.O_CLOEXEC), r.choice((0o600, 0o644)))
    os.unlink(top + "/gone")
    os.write(fd, r.randbytes(r.randrange(5000)))
    os.lseek(fd, r.randrange(100), 0)

def directory():
    removable.append(os.open(r.choice(("/", "/usr", top)), os.O_RDONLY | os.O_DIRECTORY | some(os.O_CLOEXEC)))

def device():
    pollable.append(os.open(r.choice(("/dev/urandom", "/dev/random")), os.O_RDWR | some(os.O_CLOEXEC, os.O_NONBLOCK)))
    removable.append(os.open(r.choice(("/dev/null", "/dev/zero", "/dev/full")), r.choice((os.O_RDONLY, os.O_RDWR))))

def pipe():
    ends = os.pipe2(some(os.O_CLOEXEC, os.O_NONBLOCK))
    if r.random() < 0.3: fcntl.fcntl(ends[0], fcntl.F_SETPIPE_SZ, r.choice((4096, 1 << 17)))
    if r.random() < 0.5: os.write(ends[1], r.randbytes(r.randrange(1, 4096)))
    if r.random() < 0.2:
        end = r.choice(ends)
        if r.random() < 0.5: fcntl.fcntl(end, fcntl.F_SETOWN, os.getpid())
        if r.random() < 0.5: fcntl.fcntl(end, 10, signal.SIGURG)
        signal.signal(signal.SIGURG, signal.SIG_IGN); signal.signal(signal.SIGIO, signal.SIG_IGN)
        fcntl.fcntl(end, fcntl.F_SETFL, fcntl.fcntl(end, fcntl.F_GETFL) | os.O_ASYNC)
    pollable.extend(ends)

def event():
    pollable.append(os.eventfd(r.randrange(1000), some(os.EFD_SEMAPHORE, os.EFD_NONBLOCK, os.EFD_CLOEXEC)))

def timer():  # far away: nothing fires meanwhile
    fd = call("timerfd_create", r.choice((0, 1, 7)), some(os.O_NONBLOCK, os.O_CLOEXEC))
    if r.random() < 0.7: call("timerfd_settime", fd, 0, struct.pack("4q", r.randrange(10), r.randrange(10**9), r.randrange(1000, 10**6), 5), None)
    pollable.append(fd)

def signals():
    pollable.append(call("signalfd4", -1, struct.pack("Q", r.getrandbits(31)), 8, some(os.O_NONBLOCK, os.O_CLOEXEC)))

def poll():
    p = libc.epoll_create1(some(os.O_CLOEXEC))
    for fd in r.sample(pollable, min(len(pollable), r.randrange(6))):
        e = some(1, 2, 4, 1 << 31, 1 << 30)
        libc.epoll_ctl(p, 1, fd, struct.pack("=IQ", e, r.getrandbits(64)))
    if r.random() < 0.5: pollable.append(p)

def notify():
    fd = libc.inotify_init1(some(os.O_NONBLOCK, os.O_CLOEXEC))
    for path in r.sample((b"/", b"/usr", b"/etc/passwd", top.encode()), r.randrange(5)):
        wd = libc.inotify_add_watch(fd, path, r.choice((0x400, 0xc00, 0x4000400, 0x80000400)))
        if r.random() < 0.2: libc.inotify_rm_watch(fd, wd); os.read(fd, 100)
    pollable.append(fd)

def pair():
    kind = r.choice((1, 2, 5))
    a, b = socket.socketpair(socket.AF_UNIX, kind); keep.extend((a, b))
    if kind == 1 and r.random() < 0.5: a.send(r.randbytes(r.randrange(1, 2000)))
    if kind == 1 and r.random() < 0.2: a.shutdown(r.randrange(3))
    if r.random() < 0.3: b.setblocking(False)
    if r.random() < 0.2: b.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
    if r.random() < 0.2: os.set_inheritable(a.fileno(), True)
    pollable.extend((a.fileno(), b.fileno()))

def sock():
    which = r.randrange(5)
    s = socket.socket(*((2, 1), (10, 1), (2, 2), (socket.AF_NETLINK, 3), (1, 1))[which]); keep.append(s)
    if which == 0: s.bind(("127.0.0.1", 0)); s.listen(r.randrange(1, 200))
    if which == 1: s.bind(("::", 0)); s.listen(r.randrange(1, 200))
    if which == 2: s.bind(("127.0.0.1", 0))
    if which == 3: s.bind((0, some(1)))
    if which == 4: s.bind("\0%d" % r.getrandbits(40)); s.listen(3)
    if r.random() < 0.3: s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 15)
    if r.random() < 0.5: s.setblocking(False)
    pollable.append(s.fileno())

def duplicate():
    fds = [int(n) for n in os.listdir("/proc/self/fd") if int(n) > 2 and os.path.lexists("/proc/self/fd/" + n)]
    if not fds: return
    fd = r.choice(fds)
    if r.random() < 0.5: fcntl.fcntl(fd, r.choice((fcntl.F_DUPFD, fcntl.F_DUPFD_CLOEXEC)), r.randrange(3, 200))
    else:
        to = r.randrange(200, 300)
        if not os.path.lexists("/proc/self/fd/%d" % to): os.dup2(fd, to, r.random() < 0.5)

def close():
    if removable: os.close(removable.pop(r.randrange(len(removable))))

everything = (file, path, unlinked, directory, device, pipe, event, timer, signals, poll, notify, pair, sock, duplicate, close)
for _ in range(r.randrange(10, 50)): r.choice(everything)()
print("ready", flush=True)
time.sleep(1000)
