package ptrace

import (
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// Memory is the address space of a process, read and written like a file whose offsets are addresses. The process need not be stopped for it; the caller
// needs ptrace rights over it.
type Memory struct{ pid int }

// NewMemory names the address space of a process; it holds nothing open.
func NewMemory(pid int) Memory { return Memory{pid} }

// ReadAt fills b from addresses offset and up; fewer bytes are an error.
func (m Memory) ReadAt(b []byte, offset int64) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	local := []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}
	remote := []unix.RemoteIovec{{Base: uintptr(offset), Len: len(b)}}
	n, err := unix.ProcessVMReadv(m.pid, local, remote, 0)
	switch {
	case err != nil && !errors.Is(err, unix.EFAULT):
		return 0, os.NewSyscallError("process_vm_readv", err)
	case err == nil && n == len(b):
		return n, nil
	}
	// A page without read permission, which /proc/PID/mem may read all the same.
	return m.file(os.O_RDONLY, func(f *os.File) (int, error) { return f.ReadAt(b, offset) })
}

// WriteAt writes b to addresses offset and up, into read-only private pages too.
func (m Memory) WriteAt(b []byte, offset int64) (int, error) {
	return m.file(os.O_WRONLY, func(f *os.File) (int, error) { return f.WriteAt(b, offset) })
}

func (m Memory) file(flag int, fn func(*os.File) (int, error)) (int, error) {
	f, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", m.pid), flag, 0)
	if err != nil {
		return 0, err
	}
	n, err := fn(f)
	return n, errors.Join(err, f.Close())
}

var (
	_ io.ReaderAt = Memory{}
	_ io.WriterAt = Memory{}
)
