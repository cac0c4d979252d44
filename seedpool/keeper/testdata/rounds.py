# Rounds checks memory that it has filled before its image was made: one region for each line that it reads. It answers "ok", or what is wrong.
import ctypes, mmap, os, sys

PAGES = 64
regions = []
for n in range(20):
    r = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    for p in range(PAGES):
        r[p * mmap.PAGESIZE:(p + 1) * mmap.PAGESIZE] = bytes([1 + n]) * mmap.PAGESIZE
    regions.append(r)

def page(r, p):
    return r[p * mmap.PAGESIZE:(p + 1) * mmap.PAGESIZE]

def wrong(n, r):
    for p in range(0, PAGES, 2):
        if page(r, p) != bytes([1 + n]) * mmap.PAGESIZE:
            return "page %d is not as it was" % p
    for p in range(1, PAGES, 2):
        r.madvise(mmap.MADV_DONTNEED, p * mmap.PAGESIZE, mmap.PAGESIZE)
        if page(r, p) != bytes(mmap.PAGESIZE):
            return "page %d is not zero although it was dropped" % p
    return ""

def round(n):
    said = wrong(n, regions[n])
    child = os.fork()
    if child == 0:
        os._exit(1 if wrong(n + 10, regions[n + 10]) else 0)
    if os.waitpid(child, 0)[1]:
        said += " in the child"
    return said or "ok"

open("/tmp/up", "w").close()
for n, line in enumerate(sys.stdin):
    print(round(n), flush=True)
