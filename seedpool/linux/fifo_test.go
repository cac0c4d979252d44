package linux

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func fifo(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	must(t, MakeFifo(path, 0o600))
	return path
}

func TestFifoThatExistsIsKeptAndAnythingElseIsRefused(t *testing.T) {
	path := fifo(t)
	must(t, MakeFifo(path, 0o600))
	if info := get[os.FileInfo](t)(os.Lstat(path)); info.Mode() != os.ModeNamedPipe|0o600 {
		t.Errorf("mode %s", info.Mode())
	}
	file := path + "-file"
	must(t, os.WriteFile(file, nil, 0o600))
	must(t, os.Symlink(path, path+"-link"))
	for _, other := range []string{file, path + "-link"} {
		if err := MakeFifo(other, 0o600); !errors.Is(err, os.ErrExist) {
			t.Errorf("%s: %v", other, err)
		}
	}
}

func TestHeldFifoHasNeitherEndOfFileNorBrokenPipe(t *testing.T) {
	path := fifo(t)
	if f, err := WriteFifo(path); !errors.Is(err, unix.ENXIO) {
		t.Errorf("write without a reader: %v %v", f, err)
	}
	held := get[*os.File](t)(HoldFifo(path))
	w := get[*os.File](t)(WriteFifo(path))
	get[int](t)(w.WriteString("kept"))
	must(t, w.Close())
	r := get[*os.File](t)(ReadFifo(path))
	defer r.Close()
	data := make([]byte, 10)
	if n, err := r.Read(data); string(data[:n]) != "kept" || err != nil {
		t.Errorf("read %q: %v", data[:n], err)
	}
	// The poller watches it: a deadline and Close end a Read.
	must(t, r.SetReadDeadline(time.Now().Add(20*time.Millisecond)))
	if n, err := r.Read(data); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read while it is held: %d %v", n, err)
	}
	must(t, r.SetReadDeadline(time.Time{}))
	ended := make(chan error)
	go func() { _, err := r.Read(data); ended <- err }()
	must(t, held.Close())
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("after nobody holds it: %v", err)
	}
}

func TestFifoWriterWaitsForItsReaderUnderThePoller(t *testing.T) {
	path := fifo(t)
	r := get[*os.File](t)(ReadFifo(path))
	w := get[*os.File](t)(WriteFifo(path))
	defer w.Close()
	sent := make([]byte, 1<<20)
	written := make(chan error)
	go func() { _, err := w.Write(sent); written <- err }()
	got := get[int64](t)(io.Copy(io.Discard, io.LimitReader(r, int64(len(sent)))))
	must(t, <-written)
	if got != int64(len(sent)) {
		t.Errorf("read %d bytes", got)
	}
	must(t, r.Close())
	if _, err := w.Write(sent); !errors.Is(err, unix.EPIPE) {
		t.Errorf("after the reader has gone: %v", err)
	}
}

func TestInheritedFifoIsBlockingAsAProcessExpects(t *testing.T) {
	path := fifo(t)
	held := get[*os.File](t)(HoldFifo(path))
	defer held.Close()
	for _, write := range []bool{false, true} {
		f := get[*os.File](t)(InheritFifo(path, write))
		flags := get[int](t)(unix.FcntlInt(f.Fd(), unix.F_GETFL, 0))
		if want := map[bool]int{false: unix.O_RDONLY, true: unix.O_WRONLY}[write]; flags&(unix.O_ACCMODE|unix.O_NONBLOCK) != want {
			t.Errorf("write %t: flags %o", write, flags)
		}
		must(t, f.Close())
	}
	if _, err := InheritFifo(path+"-none", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("one that is not there: %v", err)
	}
}
