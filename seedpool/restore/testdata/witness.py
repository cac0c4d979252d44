# The witness fills memory, waits for a line (its image is made meanwhile), and then tells whether all of its memory behaves as anonymous memory has to.
import ctypes, errno, os, subprocess, sys, threading

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.sbrk.argtypes = [ctypes.c_ssize_t]
for f in (libc.munmap, libc.mlock, libc.munlock):
    f.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
for f in (libc.madvise, libc.mprotect):
    f.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.write.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t]

PAGE, PAGES = 4096, 64
SIZE = PAGE * PAGES
# Far enough to reach, in whatever file may be behind the memory, what others have there.
GROWTH = PAGE * 2048
DONTNEED, FREE, HUGEPAGE, COLD, PAGEOUT, POPULATE_WRITE, COLLAPSE, GUARD, UNGUARD = 4, 8, 14, 20, 21, 23, 25, 102, 103
MAYMOVE, FIXED, DONTUNMAP = 1, 2, 4

def mmap(size=SIZE, at=None, fixed=0, prot=3):
    address = libc.mmap(at, size, prot, 0x22 | fixed, -1, 0)
    assert address != 2**64 - 1, os.strerror(ctypes.get_errno())
    return address

def pattern(name, page):
    # Every fourth page is zero.
    return bytes(PAGE) if page % 4 == 3 else (name + ":%d;" % page).encode() * PAGE

def page(name, n):
    return pattern(name, n)[:PAGE]

regions = {}
def region(name):
    # A page before it that cannot be touched keeps it a mapping of its own, and behind it is room to grow.
    at = mmap(SIZE + GROWTH + PAGE, prot=0)
    start = mmap(SIZE, at + PAGE, 0x10)
    libc.munmap(start + SIZE, GROWTH)
    for n in range(PAGES):
        ctypes.memmove(start + n * PAGE, page(name, n), PAGE)
    regions[name] = start
    return start

def read(at, n=PAGE):
    return ctypes.string_at(at, n)

def whole(name, at=None, pages=range(PAGES)):
    at = at or regions[name]
    return all(read(at + n * PAGE) == page(name, n) for n in pages)

def zero(at, size=SIZE):
    return read(at, size) == bytes(size)

def call(f, *args):
    return 0 if f(*args) == 0 else ctypes.get_errno()

failed = []
def check(what, ok):
    if not ok:
        failed.append(what)
        print("BAD", what, flush=True)

def in_child(what, f):
    # A check in a child, whose own checks count.
    pid = os.fork()
    if pid == 0:
        del failed[:]
        try:
            f()
        except BaseException as e:
            print("BAD", what, e, flush=True)
            os._exit(1)
        os._exit(len(failed))
    return lambda: check(what, os.waitpid(pid, 0)[1] == 0)

for name in ("kept read-twice dropped written again grown moved left shrunk forked child free huge guarded cold paged locked populated protected replaced "
             "kernel late empty thread").split():
    region(name)
libc.madvise(regions["huge"], SIZE, HUGEPAGE)
libc.sbrk(0)
brk = libc.sbrk(PAGE * 256)
ctypes.memset(brk, 7, PAGE * 256)
go, gone = threading.Event(), threading.Event()
def thread():
    local = bytearray(b"thread") * 100000
    go.wait()
    check("content seen by an old thread", whole("thread") and local == bytearray(b"thread") * 100000)
    gone.set()
threading.Thread(target=thread).start()
print("up", flush=True)
sys.stdin.readline()

r = regions
check("content", whole("kept") and whole("read-twice") and whole("read-twice"))
for n in range(PAGES):
    ctypes.memset(r["written"] + n * PAGE, 1, 10)
check("drop written", call(libc.madvise, r["written"], SIZE, DONTNEED) == 0 and zero(r["written"]))
check("drop untouched", call(libc.madvise, r["dropped"], SIZE, DONTNEED) == 0 and zero(r["dropped"]))
whole("again")
call(libc.madvise, r["again"], SIZE, DONTNEED)
ctypes.memset(r["again"] + PAGE, 9, 1)
check("write after drop", read(r["again"], 2 * PAGE) == bytes(PAGE) + b"\x09" + bytes(PAGE - 1))
call(libc.madvise, r["again"], SIZE, DONTNEED)
check("drop again", zero(r["again"]))

grown = libc.mremap(r["grown"], SIZE, SIZE + GROWTH, MAYMOVE, None)
check("grow", whole("grown", grown) and zero(grown + SIZE, GROWTH))
target = mmap(4 * SIZE)
moved = libc.mremap(r["moved"], SIZE, 2 * SIZE, MAYMOVE | FIXED, target)
check("move", moved == target and zero(moved + SIZE) and whole("moved", moved))
call(libc.madvise, moved, SIZE, DONTNEED)
check("drop moved", zero(moved))
left = libc.mremap(r["left"], SIZE, SIZE, MAYMOVE | DONTUNMAP, None)
if left != 2**64 - 1:
    check("move and stay", whole("left", left) and zero(r["left"]))
libc.mremap(r["shrunk"], SIZE, SIZE // 2, 0, None)
again = libc.mremap(r["shrunk"], SIZE // 2, SIZE, MAYMOVE, None)
check("shrink and grow", whole("shrunk", again, range(PAGES // 2)) and zero(again + SIZE // 2, SIZE // 2))

def child():
    check("content in the child", whole("forked") and whole("child") and whole("kept"))
    check("dropped before the fork", zero(r["dropped"]) and zero(r["written"]))
    call(libc.madvise, r["child"], SIZE, DONTNEED)
    check("drop in the child", zero(r["child"]))
    more = libc.mremap(r["forked"], SIZE, 2 * SIZE, MAYMOVE, None)
    check("grow in the child", whole("forked", more) and zero(more + SIZE))
    def grandchild():
        check("content in the grandchild", whole("kept") and zero(r["child"]))
        call(libc.madvise, r["kept"], SIZE, DONTNEED)
        check("drop in the grandchild", zero(r["kept"]))
    in_child("grandchild", grandchild)()
    check("content after the grandchild", whole("kept"))
ends = [in_child("child", child) for _ in range(3)]
call(libc.madvise, r["forked"], SIZE, DONTNEED)
ctypes.memset(r["child"], 5, PAGE)
check("drop in the parent", zero(r["forked"]))
for end in ends:
    end()
check("content after the children", whole("child", pages=range(1, PAGES)) and read(r["child"]) == b"\x05" * PAGE)

check("heap", read(brk, PAGE * 256) == b"\x07" * PAGE * 256)
more = libc.sbrk(PAGE * 64)
check("heap growth", zero(more, PAGE * 64))
ctypes.memset(more, 3, PAGE * 64)
shrunk, again = libc.sbrk(-PAGE * 64), libc.sbrk(PAGE * 64)
check("heap regrowth", again == more and zero(again, PAGE * 64))

said = call(libc.madvise, r["free"], SIZE, FREE)
check("free", all(read(r["free"] + n * PAGE) in (page("free", n), bytes(PAGE)) for n in range(PAGES)) and (said == errno.EINVAL) == whole("free") or said == 0)
call(libc.madvise, r["huge"], SIZE, COLLAPSE)
check("huge", whole("huge") and call(libc.madvise, r["huge"], SIZE, DONTNEED) == 0 and zero(r["huge"]))
if call(libc.madvise, r["guarded"] + PAGE, PAGE, GUARD) == 0:
    null = os.open("/tmp/null", os.O_WRONLY | os.O_CREAT)
    check("guard", libc.write(null, r["guarded"] + PAGE, 1) == -1 and read(r["guarded"]) == page("guarded", 0))
    call(libc.madvise, r["guarded"] + PAGE, PAGE, UNGUARD)
    check("guard removed", zero(r["guarded"] + PAGE, PAGE) and whole("guarded", pages=range(2, PAGES)))
for name, advice in (("cold", COLD), ("paged", PAGEOUT), ("populated", POPULATE_WRITE)):
    call(libc.madvise, r[name], SIZE, advice)
    check(name, whole(name))
check("lock", call(libc.mlock, r["locked"], SIZE) == 0 and whole("locked") and call(libc.munlock, r["locked"], SIZE) == 0)
libc.mprotect(r["protected"], SIZE, 0)
libc.mprotect(r["protected"], SIZE, 3)
check("protect", whole("protected"))
mmap(SIZE // 2, r["replaced"], 0x10)
check("map over", zero(r["replaced"], SIZE // 2) and whole("replaced", pages=range(PAGES // 2, PAGES)))
ends, pipe = os.pipe()
call(libc.madvise, r["kernel"], PAGE, DONTNEED)
check("kernel reads dropped", libc.write(pipe, r["kernel"], 2 * PAGE) == 2 * PAGE and os.read(ends, 2 * PAGE) == bytes(PAGE) + page("kernel", 1))
os.write(pipe, b"x" * PAGE)
call(libc.madvise, r["kernel"], PAGE, DONTNEED)
with os.fdopen(ends, "rb", 0) as f:
    f.readinto((ctypes.c_char * 100).from_address(r["kernel"]))
check("kernel writes dropped", read(r["kernel"]) == b"x" * 100 + bytes(PAGE - 100))
check("program", subprocess.run(["sh", "-c", "(:) & wait; exit 3"]).returncode == 3)
def deep(n):
    return n and deep(n - 1) + 1
check("stack", deep(800) == 800)
go.set()
gone.wait()
check("content at last", whole("late") and whole("empty"))
print("done", len(failed), flush=True)
sys.stdin.readline()
