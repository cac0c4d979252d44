package linux

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestPagesAreThoseThatWereWritten(t *testing.T) {
	const pages = 2048
	memory, err := unix.Mmap(-1, 0, pages*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	if err := unix.Madvise(memory, unix.MADV_NOHUGEPAGE); err != nil {
		t.Fatal(err)
	}
	start := addressOf(memory)
	at := func(page uint64) uint64 { return start + page*pageSize }
	var want []PageRange
	// More of them than the kernel is asked for at a time.
	for page := uint64(0); page < pages; page += 3 {
		memory[page*pageSize] = 1
		want = append(want, PageRange{at(page), at(page + 1)})
	}
	memory[pageSize] = 1
	want[0].To = at(2)
	have, err := Pages(os.Getpid(), start, at(pages))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, have); diff != "" {
		t.Error(diff)
	}
	if err := unix.Madvise(memory, unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if have, err := Pages(os.Getpid(), start, at(pages)); err != nil || len(have) > 0 {
		t.Errorf("of dropped memory: %v, %v", have, err)
	}
	if _, err := Pages(os.Getpid(), start+1, at(pages)); err == nil {
		t.Error("half a page")
	}
}
