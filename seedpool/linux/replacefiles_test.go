package linux

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFilesOfAFrozenContainerAreReplaced(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/run/identity", 0o755))
	c, p := cgroup(t), container(t, "container", root)
	memory := t.TempDir()
	must(t, Mount("tmpfs", memory, "tmpfs", 0, "mode=755"))
	t.Cleanup(func() { must(t, Unmount(memory)) })
	must(t, BindInto(p.pid(), []BindMount{{memory, "/run/identity", nil}}))
	must(t, c.Attach(p.pid()))
	must(t, c.Freeze(t.Context()))
	// A link that the app has put where a file is to be leads nowhere.
	must(t, os.WriteFile(root+"/precious", []byte("precious"), 0o644))
	must(t, os.Symlink("/precious", p.inside("run/identity/generation")))
	for _, generation := range []string{"first", "second"} {
		must(t, ReplaceFiles(p.pid(), "/run/identity", []File{{"generation", []byte(generation)}, {"empty", nil}}))
		if got := readString(t, p.inside("run/identity/generation")); got != generation {
			t.Errorf("generation is %q, want %q", got, generation)
		}
	}
	if got := readString(t, root+"/precious"); got != "precious" {
		t.Errorf("the file behind a link was written: %q", got)
	}
	info, err := os.Stat(p.inside("run/identity/empty"))
	must(t, err)
	if info.Mode() != 0o444 || info.Size() != 0 {
		t.Errorf("mode %v, %d bytes", info.Mode(), info.Size())
	}
}

func TestFilesAreReplacedInATmpfsOnly(t *testing.T) {
	root := t.TempDir()
	must(t, os.MkdirAll(root+"/run/identity", 0o755))
	must(t, os.Symlink("/run", root+"/link"))
	p := container(t, "container", root)
	if err := ReplaceFiles(p.pid(), "/run/identity", []File{{"generation", nil}}); !errors.Is(err, ErrNotTmpfs) {
		t.Errorf("plain directory: %v", err)
	}
	if err := ReplaceFiles(p.pid(), "/link/identity", nil); !errors.Is(err, unix.ELOOP) {
		t.Errorf("link on the way: %v", err)
	}
	if err := ReplaceFiles(p.pid(), "/run/missing", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	if _, err := os.Lstat(root + "/run/identity/generation"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a file was made: %v", err)
	}
}
