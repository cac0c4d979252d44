package restore

import (
	"archive/tar"
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func archive(t testing.TB, headers ...tar.Header) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		h.Mode, h.Size = 0o644, 0
		if h.Typeflag == tar.TypeReg {
			h.Size = 1
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte("x")); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "mount-0.tar")
	if err := os.WriteFile(file, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func TestPackedFilesCannotLeaveTheirMount(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"up":            {{Typeflag: tar.TypeReg, Name: "../out"}},
		"by a link":     {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, {Typeflag: tar.TypeReg, Name: "l/out"}},
		"from the root": {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: "/"}, {Typeflag: tar.TypeReg, Name: "l/out"}},
		"fifo":          {{Typeflag: tar.TypeSymlink, Name: "l", Linkname: ".."}, {Typeflag: tar.TypeFifo, Name: "l/out"}},
		"device":        {{Typeflag: tar.TypeBlock, Name: "disk", Devmajor: 8}},
		"hard link":     {{Typeflag: tar.TypeLink, Name: "passwd", Linkname: "/etc/passwd"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			inside := filepath.Join(dir, "inside")
			if err := os.Mkdir(inside, 0o755); err != nil {
				t.Fatal(err)
			}
			if err := unpack(archive(t, headers...), inside); err == nil {
				t.Error("it is unpacked")
			}
			for _, path := range []string{filepath.Join(dir, "out"), "/out", filepath.Join(inside, "disk"), filepath.Join(inside, "passwd")} {
				if _, err := os.Lstat(path); err == nil {
					t.Errorf("%s is there", path)
				}
			}
		})
	}
}

func TestDamagedArchiveIsRefused(t *testing.T) {
	file := archive(t, tar.Header{Typeflag: tar.TypeReg, Name: "a"}, tar.Header{Typeflag: tar.TypeReg, Name: "b"})
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := checkArchive(file); err != nil {
		t.Error(err)
	}
	for _, n := range []int{0, 700, 1024, 2048, 2560} {
		if err := os.WriteFile(file, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if err := checkArchive(file); !errors.Is(err, ErrImage) {
			t.Errorf("%d bytes of it are accepted", n)
		}
	}
}
