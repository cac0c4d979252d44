# Watches, in an overlay and in a tmpfs, with numbers that have gaps; an event waits until the first SIGUSR1. At each it tells what it has been told and what it watches.
import ctypes, os, signal, struct, time

libc = ctypes.CDLL(None)
os.makedirs("/srv/app/deep")
kept = open("/srv/app/deep/file", "a")
fd = libc.inotify_init1(0o4000)
paths = {}

def watch(path, mask):
    wd = libc.inotify_add_watch(fd, path.encode(), mask)
    paths[wd] = path

for path, mask in (("/etc", 0x100), ("/srv", 0x100), ("/", 0x4000100), ("/usr", 0x100), ("/srv/app/deep", 0x80000fff), ("/srv/app/deep/file", 2), ("/dev/shm", 0x100)):
    watch(path, mask)
libc.inotify_rm_watch(fd, 1); libc.inotify_rm_watch(fd, 4)
while True:
    try: os.read(fd, 4096)
    except BlockingIOError: break

def tell(*_):
    told, at = [], 0
    try: data = os.read(fd, 4096)
    except BlockingIOError: data = b""
    while at < len(data):
        wd, mask, _, size = struct.unpack_from("iIII", data, at)
        told.append(str((wd, mask, data[at + 16:at + 16 + size].rstrip(b"\0").decode())))
        at += 16 + size
    now = {}
    for line in open("/proc/self/fdinfo/%d" % fd):
        if line.startswith("inotify"):
            fields = dict(f.split(":") for f in line.split()[1:])
            now[int(fields["wd"], 16)] = (paths[int(fields["wd"], 16)], fields["mask"])
    os.write(1, (" ".join(told) + " " + str(dict(sorted(now.items()))) + "\n").encode())

signal.signal(signal.SIGUSR1, tell)
open("/srv/early", "w").close()
os.write(1, b"up\n")
while True: time.sleep(0.05)
