package linux

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// uffdEventRemove asks for word of dropped memory: whoever drops it waits until that is read.
const uffdEventRemove = 1 << 3

// openStore makes a sealed file of four pages, of which the third is a hole, and maps it privately.
func openStore(t *testing.T) (m *MemoryFS, memory []byte) {
	t.Helper()
	m, err := NewMemoryFS()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	f, err := os.Create(m.Path("store"))
	if err != nil {
		t.Fatal(err)
	}
	for page, content := range map[int64]string{0: "a", 1: "b", 3: "d"} {
		if _, err := f.WriteAt(bytes.Repeat([]byte(content), pageSize), page*pageSize); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(f.Close(), m.Seal()); err != nil {
		t.Fatal(err)
	}
	if f, err = os.Open(m.Path("store")); err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	memory, err = unix.Mmap(int(f.Fd()), 0, 4*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Munmap(memory) })
	return m, memory
}

func TestMemoryFSCannotBeWrittenOnceSealed(t *testing.T) {
	m, memory := openStore(t)
	if _, err := os.OpenFile(m.Path("store"), os.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("open: %v", err)
	}
	if err := os.Truncate(m.Path("store"), 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("truncate: %v", err)
	}
	memory[0] = 'x'
	if data, err := os.ReadFile(m.Path("store")); err != nil || data[0] != 'a' {
		t.Errorf("read %q, %v", data[0], err)
	}
}

// serve answers every fault of the calling process with zeros until the end of the test.
func serve(t *testing.T) *Userfaultfd {
	t.Helper()
	fd, err := openUserfaultfd(uffdMinorOfShmem | uffdEventRemove)
	if err != nil {
		t.Fatal(err)
	}
	u := AdoptUserfaultfd(os.NewFile(uintptr(fd), "userfaultfd"))
	ended := make(chan error)
	go func() {
		for {
			events, err := u.Read()
			for _, e := range events {
				if e.Address != 0 {
					err = errors.Join(err, u.Zero(e.Address, e.Write))
				}
			}
			if err != nil {
				ended <- err
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = u.Close()
		if err := <-ended; !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return u
}

func TestContinuedPagesAreTheFilesAndDroppedOnesZero(t *testing.T) {
	_, memory := openStore(t)
	u := serve(t)
	start := addressOf(memory)
	if err := u.Register(start, 4*pageSize, FaultMissing|FaultMinor); err != nil {
		t.Fatal(err)
	}
	// The second page has been written before.
	if err := errors.Join(u.Continue(start, pageSize), u.Continue(start, 2*pageSize), u.Continue(start+3*pageSize, pageSize)); err != nil {
		t.Fatal(err)
	}
	is := func(when, want string) {
		t.Helper()
		have := string([]byte{memory[0], memory[pageSize], memory[2*pageSize], memory[3*pageSize]})
		if have != want {
			t.Errorf("%s: pages begin with %q, want %q", when, have, want)
		}
	}
	is("mapped", "ab\x00d")
	memory[pageSize] = 'B'
	if err := unix.Madvise(memory[:2*pageSize], unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	is("dropped", "\x00\x00\x00d")
	if err := unix.Madvise(memory, unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	memory[3*pageSize] = 'D'
	is("written after it was dropped", "\x00\x00\x00D")
	if !bytes.Equal(memory[3*pageSize+1:], make([]byte, pageSize-1)) {
		t.Error("a page that is written after it was dropped is not zero")
	}
	if err := errors.Join(u.WakeAll(), u.Zero(start, true)); err != nil {
		t.Error(err)
	}
	if !u.Alive() {
		t.Error("the address space is ours, and said to be gone")
	}
	// A page that the file does not have cannot be mapped.
	if err := unix.Madvise(memory, unix.MADV_DONTNEED); err != nil {
		t.Fatal(err)
	}
	if err := u.Continue(start+2*pageSize, pageSize); err == nil {
		t.Error("a hole was mapped")
	}
}

func TestUnregisteredRangeIsTheKernels(t *testing.T) {
	u := serve(t)
	memory, err := unix.Mmap(-1, 0, 2*pageSize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(memory)
	start := addressOf(memory)
	if err := u.Register(start, 2*pageSize, FaultMissing); err != nil {
		t.Fatal(err)
	}
	if memory[0] != 0 {
		t.Error("not zero")
	}
	if err := u.Unregister(start, 2*pageSize); err != nil {
		t.Fatal(err)
	}
	if memory[pageSize] != 0 {
		t.Error("not zero")
	}
}
