# The sleeper knows what each page of its memory is to hold. With every line that it is sent, it and its children look whether that is so, tell it, and change their
# memory again, at random: their image is made after that.
import ctypes, os, random, sys

libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = libc.sbrk.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.sbrk.argtypes = [ctypes.c_ssize_t]

PAGE, PAGES, ROOM = 4096, 48, 256
DONTNEED = 4

def mmap(size, at=None, fixed=0, prot=3):
    address = libc.mmap(at, size, prot, 0x22 | fixed, -1, 0)
    assert address != 2**64 - 1, os.strerror(ctypes.get_errno())
    return address

class Region:
    # A page before it that cannot be touched keeps it a mapping of its own; behind it is room to grow.
    def __init__(self, name):
        self.name = name
        self.at = mmap((PAGES + ROOM + 1) * PAGE, prot=0) + PAGE
        mmap(PAGES * PAGE, self.at, 0x10)
        libc.munmap(self.at + PAGES * PAGE, ROOM * PAGE)
        self.want = [None] * PAGES  # zero
        for n in range(PAGES):
            if n % 5 != 4:
                self.write(n, "seed")
    def content(self, n):
        return bytes(PAGE) if self.want[n] is None else ((self.name + str(n) + self.want[n]).encode() * PAGE)[:PAGE]
    def write(self, n, what):
        self.want[n] = what
        ctypes.memmove(self.at + n * PAGE, self.content(n), PAGE)
    def drop(self, n):
        assert libc.madvise(self.at + n * PAGE, PAGE, DONTNEED) == 0
        self.want[n] = None
    def replace(self, n):
        mmap(PAGE, self.at + n * PAGE, 0x10)
        self.want[n] = None
    def touch(self, n):
        # It is read: what is there then is not to be taken for what was there before.
        ctypes.string_at(self.at + n * PAGE, 1)
    def resize(self, pages):
        # By its last page: the mapping may have been cut in several.
        if pages < len(self.want):
            assert libc.munmap(self.at + pages * PAGE, (len(self.want) - pages) * PAGE) == 0
            self.want = self.want[:pages]
        last = self.at + (len(self.want) - 1) * PAGE
        more = pages - len(self.want)
        got = libc.mremap(last, PAGE, (more + 1) * PAGE, 0, None)
        assert got == last, os.strerror(ctypes.get_errno())
        self.want += [None] * more
    def wrong(self):
        return [n for n in range(len(self.want)) if ctypes.string_at(self.at + n * PAGE, PAGE) != self.content(n)]

class Heap(Region):
    def __init__(self):
        libc.sbrk(-libc.sbrk(0) % PAGE)
        self.name, self.at, self.want = "heap", libc.sbrk(PAGES * PAGE), [None] * PAGES
        for n in range(PAGES):
            self.write(n, "seed")

regions = [Region("r%d-" % n) for n in range(12)]
heap = Heap()

def look(who):
    bad = ["%s %s%s" % (who, r.name, r.wrong()) for r in regions + [heap] if r.wrong()]
    for line in bad:
        print("BAD", line, flush=True)
    return len(bad)

def change(generation, seed):
    some = random.Random(seed * 1000 + generation)
    for r in regions + [heap]:
        for n in range(len(r.want)):
            what = some.randrange(16)
            if what == 0: r.write(n, "g%d" % generation)
            if what == 1: r.drop(n)
            if what == 2: r.drop(n); r.touch(n)
            if what == 3: r.drop(n); r.write(n, "seed") # as it was, in another page
            if what == 4: r.write(n, "g%d" % generation); r.drop(n)
            if what == 5: r.touch(n)
            if what == 6 and r is not heap: r.replace(n)
    grown = regions[generation % 4]
    grown.resize(len(grown.want) + 24)
    shrunk = regions[4 + generation % 4]
    size = len(shrunk.want)
    shrunk.resize(size // 2)
    shrunk.resize(size)
    for n in range(PAGES):
        regions[8 + generation % 4].drop(n)

class Child:
    # It has its parent's memory, and changes it in other ways.
    def __init__(self, seed):
        ask, self.ask = os.pipe()
        self.told, told = os.pipe()
        if os.fork() == 0:
            os.close(self.ask)
            os.close(self.told)
            while True:
                line = os.read(ask, 1)
                if not line:
                    os._exit(0)
                bad = look("child %d" % seed)
                change(line[0], seed)
                os.write(told, bytes([min(bad, 255)]))
        os.close(ask)
        os.close(told)
    def look(self, generation):
        os.write(self.ask, bytes([generation]))
        return os.read(self.told, 1)[0]

children = [Child(1)]
print("up", flush=True)
generation = 0
for line in sys.stdin:
    generation += 1
    bad = look("parent") + sum(c.look(generation) for c in children)
    change(generation, 0)
    if generation == 1:
        children.append(Child(2))
    print("done", bad, flush=True)
