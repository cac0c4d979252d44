package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/sproutrun/sprout/integration/stack"
)

// TestStateLiesOnWhatFileSystemTheHostHas has a node whose files, the containers' among them, are on a file system other than this machine's. That it can be unmounted in the
// end says that nothing was left.
func TestStateLiesOnWhatFileSystemTheHostHas(t *testing.T) {
	for _, mkfs := range []string{"mkfs.xfs", "mkfs.btrfs"} {
		t.Run(mkfs, func(t *testing.T) {
			t.Parallel()
			s := startStack(t, stack.Options{Dir: nodeOn(t, mkfs), Config: stack.Cloning}, "tiny-demo")
			seed := baked(t, s, "witness", "tiny-demo", "--ready", "log=^ready$", "--", "perl", "-e", witnessed)
			setPool(t, s, seed, 1)
			livesOn(t, s, "thaw")
			setPool(t, s, seed, 0)
			livesOn(t, s, "fork")
			kill(t, templateProcess(t, s, "zygote"))
			livesOn(t, s, "restore")
			if out, err := s.Sprout(t.Context(), "gc"); err != nil {
				t.Error(err, out)
			}
		})
	}
}

// nodeOn is a directory on a new file system.
func nodeOn(t *testing.T, mkfs string) string {
	t.Helper()
	const size = 1 << 30                  // of a file with holes
	dir, err := os.MkdirTemp("", "host-") // short, as paths of sockets are
	if err != nil {
		t.Fatal(err)
	}
	image, point := filepath.Join(dir, "image"), filepath.Join(dir, "host")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(image, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(image, size); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{mkfs, "-q", image}, {"mount", "-o", "loop", image, point}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if err := errors.Join(mount.Unmount(point, 0), os.RemoveAll(dir)); err != nil {
			t.Error(err)
		}
	})
	node, err := os.MkdirTemp(point, "sprout-")
	if err != nil {
		t.Fatal(err)
	}
	return node
}

// livesOn starts a container on a rung, has it change its files in all ways that an overlay tells apart, and removes it.
func livesOn(t *testing.T, s *stack.Stack, rung string) {
	t.Helper()
	if _, err := s.Ctr(t.Context(), "run", "-d", "--null-io", "--runtime", stack.Runtime, "--snapshotter", stack.Snapshotter, stack.Ref("tiny-demo"), rung, "perl", "-e", witnessed); err != nil {
		t.Fatal(err)
	}
	wantRung(t, s, rung, rung)
	const change = "echo kept >/etc/new; mv /etc/debian_version /moved; rm -r /usr/share/perl5; mkdir /usr/share/perl5; chmod 700 /opt; cat /etc/new; ls /usr/share/perl5 | wc -l; wc -l </moved"
	out, err := s.Ctr(t.Context(), "task", "exec", "--exec-id", "change", rung, "sh", "-c", change)
	if err != nil || !strings.HasSuffix(out, "kept\n0\n1\n") {
		t.Errorf("%v: %s", err, out)
	}
	remove(t, s, rung)
}
