# A threaded HTTP server with one of each kind of descriptor and memory that a clone is given. It says "ready" on its standard output.
import ctypes, faulthandler, fcntl, http.server, json, mmap, os, select, signal, socket, struct, sys, threading, time

libc = ctypes.CDLL(None, use_errno=True)
faulthandler.enable()  # an alternate signal stack

keep = []
shared = mmap.mmap(-1, 8192)
shared[0:4] = b"seed"
sparse = mmap.mmap(-1, 1 << 24); sparse[5 << 20] = 1
private = bytearray(os.urandom(8 << 20))
event = os.eventfd(3, os.EFD_SEMAPHORE | os.EFD_NONBLOCK)
r, w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
poll = select.epoll()
poll.register(r, select.EPOLLIN | select.EPOLLET)
libc.epoll_ctl(poll.fileno(), 1, event, struct.pack("=IQ", 1 | 1 << 31, 0x1122334455667788))
libc.timerfd_settime(libc.timerfd_create(1, 0o2000000), 0, struct.pack("4q", 0, 5000, 1000, 0), None)
libc.signalfd(-1, struct.pack("Q", 1 << 11), 0)
file = open(sys.argv[1], "rb", buffering=0)
file.seek(3)
os.dup(file.fileno())
directory = os.open("/usr", os.O_RDONLY | os.O_DIRECTORY)
null = os.open("/dev/null", os.O_RDWR)
notify = libc.inotify_init1(0o4000)
for path in b"/etc", b"/usr", sys.argv[1].encode(): libc.inotify_add_watch(notify, path, 0x4000100)
libc.inotify_rm_watch(notify, 1); os.read(notify, 100)

pairs = [socket.socketpair(socket.AF_UNIX, kind) for kind in (1, 2, 5)]
pairs[0][0].send(b"waits"); pairs[0][0].shutdown(socket.SHUT_WR)
for s, number in (pairs[1][0], 12), (pairs[2][0], 0): fcntl.fcntl(s, fcntl.F_SETOWN, os.getpid()); fcntl.fcntl(s, 10, number); fcntl.fcntl(s, fcntl.F_SETFL, os.O_ASYNC)
listener = socket.socket(socket.AF_UNIX); listener.bind("\0witness"); listener.listen(3)
packets, route = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
packets.bind(("127.0.0.1", 5353)); packets.connect(("127.0.0.1", 5353)); route.bind((0, 1))
for _ in range(2): libc.syscall(222, 1, struct.pack("Qiii44x", 7, 34, 0, 0), ctypes.byref(ctypes.c_int()))
libc.syscall(226, 0)

woken_early = 0
def sleeper():
    global woken_early
    libc.prctl(15, b"sleeper", 0, 0, 0)
    while True:
        t = time.monotonic(); time.sleep(0.05)
        if time.monotonic() - t < 0.049: woken_early += 1
def locked(l=threading.Lock()):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    l.acquire(); l.acquire()
def waiter():
    while True: poll.poll()
def computer():
    x = 1.0
    while True:
        for i in range(100): x = (x * 1.5) % 7.0
        time.sleep(0.002)
for f in (sleeper, locked, waiter, computer): threading.Thread(target=f, daemon=True).start()

count = 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        shared[4] = count % 256
        body = json.dumps({"count": count, "pid": os.getpid(), "threads": threading.active_count(), "shared": shared[0:4].decode(), "offset": file.tell(),
            "file": file.read(1).decode(), "event": os.eventfd_read(event) if count == 1 else 0, "sum": sum(private[:1000]), "host": socket.gethostname(),
            "early": woken_early, "alive": len(os.listdir("/proc/self/task"))}).encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers(); self.wfile.write(body)
    def log_message(self, *a): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 8080), Handler)
print("ready", flush=True)
server.serve_forever()
