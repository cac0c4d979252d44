# Dropping drops pages that it has filled before its image was made, and looks that they are zero, without an end, as soon as it may run. It says what is wrong.
import mmap, os

PAGES = 64
r = mmap.mmap(-1, PAGES * mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
r.write(b"x" * len(r))
zeros = bytes(mmap.PAGESIZE)
open("/tmp/up", "w").close()

n = 0
while True:
    at = n % PAGES * mmap.PAGESIZE
    r.madvise(mmap.MADV_DONTNEED, at, mmap.PAGESIZE)
    if r[at:at + mmap.PAGESIZE] != zeros:
        os.write(1, b"wrong\n")
    n += 1
    if n % (PAGES * 16) == 0:
        os.write(1, b"dropping\n")
