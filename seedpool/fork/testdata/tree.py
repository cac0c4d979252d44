# An init with two workers that share with it, and with each other, what servers share: a listener, memory, a log, a pipe each. It says "ready" on its standard output.
# A worker answers every connection with what it sees of itself and of the others; asked to, it ends.
import ctypes, json, mmap, os, signal, socket, sys, time

shared = mmap.mmap(-1, 1 << 20)
libc = ctypes.CDLL(None)
libc.shmat.restype = ctypes.c_void_p
segment = (ctypes.c_ubyte * 10).from_address(libc.shmat(libc.shmget(0, 10, 0o600), None, 0))
log = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
heart = os.open(os.path.dirname(sys.argv[1]) + "/heart", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o640)
os.unlink(os.path.dirname(sys.argv[1]) + "/heart")
os.write(heart, b"alive")
os.utime(heart, (7, 9))
listener = socket.socket()
listener.bind(("127.0.0.1", 8080))
listener.listen(64)
ended = []

def reap(*_):
    while True:
        try: pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError: return
        if pid == 0: return
        ended.append((pid, os.waitstatus_to_exitcode(status)))
        shared[100:100 + 64] = json.dumps(ended).encode().ljust(64)
signal.signal(signal.SIGCHLD, reap)

def worker(number, report):
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    private = bytes([number]) * 4096
    ctypes.CDLL(None).prctl(28, 1 << 2)  # another user, who keeps the capabilities that it takes to clone
    os.setgroups([]); os.setresgid(33, 33, 33); os.setresuid(33, 33, 33)
    while True:
        c, _ = listener.accept()
        asked = c.recv(1000).decode()
        shared[number] += 1
        segment[number] += 1
        os.write(log, b"%d\n" % number)
        os.write(report, b"%d" % number)
        time.sleep(0.05)
        body = json.dumps({"number": number, "pid": os.getpid(), "parent": os.getppid(), "group": os.getpgrp(), "session": os.getsid(0), "uid": os.getuid(), "cwd": os.getcwd(),
            "segment": segment[number] == shared[number], "told": ours.send(b"x") + len(theirs.recv(1)), "heart": [os.pread(heart, 100, 0).decode(), *(os.fstat(heart)[n] for n in (0, 8)), os.lseek(heart, 0, 1)], "memory": private == bytes([number]) * 4096, "counts": list(shared[0:8]), "ended": shared[100:164].decode().strip("\0 "), "heard": shared[9]}) + "\n"
        if asked.startswith("end"): os._exit(int(asked.split()[1]))
        c.send(body.encode()); c.close()

ours, theirs = socket.socketpair()  # as a master tells its workers something
pipes = []
for number in (1, 2):
    r, w = os.pipe()
    if os.fork() == 0:
        os.close(r)
        if number == 2: os.setpgid(0, 0)
        worker(number, w)
    os.close(w)
    pipes.append(r)
time.sleep(0.2)
print("ready", flush=True)
import select
while True:
    for r in select.select(pipes, [], [])[0]:
        if not os.read(r, 1): pipes.remove(r)
        shared[9] += 1
