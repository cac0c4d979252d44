package integration

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

// wantCold starts a python container and fails unless it came up cold, for the reason, and works.
func wantCold(t *testing.T, s *stack.Stack, id, reason string, args ...string) string {
	t.Helper()
	run(t, s, id, "python-demo", args...)
	out := wantRung(t, s, id, "cold")
	if !strings.Contains(out, reason) {
		t.Errorf("reason %s is missing:\n%s", reason, out)
	}
	return out
}

func TestNoSeedStartsCold(t *testing.T) {
	run(t, house, "no-seed", "tiny-demo")
	if out := wantRung(t, house, "no-seed", "cold"); !strings.Contains(out, "no-seed") {
		t.Errorf("reason is missing:\n%s", out)
	}
}

func TestKeyThatDiffersStartsColdAndNamesTheField(t *testing.T) {
	setPool(t, house, bakedPython(t, house), 1)
	for name, args := range map[string][]string{
		"env":       {"--env", "COLOUR=blue"},
		"resources": {"--memory-limit", "268435456"},
		"user":      {"--user", "1000"},
		"cwd":       {"--cwd", "/tmp"},
	} {
		t.Run(name, func(t *testing.T) {
			if out := wantCold(t, house, "differs-"+name, "key-differs", args...); !strings.Contains(strings.ToLower(out), name) {
				t.Errorf("field %s is not named:\n%s", name, out)
			}
		})
	}
}

func TestSpareThatDiedIsPassedOver(t *testing.T) {
	setPool(t, house, bakedPython(t, house), 1)
	pids, err := house.SparePIDs()
	if err != nil || len(pids) == 0 {
		t.Fatalf("no spare: %v", err)
	}
	for _, pid := range pids {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	run(t, house, "spare-died", "python-demo")
	get(t, house, "spare-died", "/")
	if out := explain(t, house, "spare-died"); strings.Contains(out, "rung cold,") {
		t.Errorf("a dead spare must cost one rung, not two:\n%s", out)
	}
}

func TestHostNetworkIsNotThawed(t *testing.T) {
	setPool(t, house, bakedPython(t, house), 1)
	run(t, house, "host-net", "python-demo", "--net-host")
	out := explain(t, house, "host-net")
	if !strings.Contains(out, "rung restore,") || !strings.Contains(out, "host-network") {
		t.Errorf("a spare has its own network:\n%s", out)
	}
	if host, err := os.Readlink("/proc/self/ns/net"); err != nil || netnsOf(t, house, "host-net") != host {
		t.Errorf("it is in %s, the host in %s (%v)", netnsOf(t, house, "host-net"), host, err)
	}
}

func TestDaemonAwayStartsCold(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	if err := s.ImportFor(t.Context(), []string{stack.OverlaySnapshotter}, "python-demo"); err != nil {
		t.Fatal(err)
	}
	setPool(t, s, bakedPython(t, s), 1)
	pid := s.SproutdPID()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	resumed := false
	resume := func() {
		if !resumed {
			_ = syscall.Kill(pid, syscall.SIGCONT)
			resumed = true
		}
	}
	t.Cleanup(resume)
	// The snapshotter is sproutd too: without it nothing of its snapshots can be prepared, so the container brings its own root.
	out, err := s.Ctr(t.Context(), "run", "-d", "--runtime", stack.Runtime, "--snapshotter", stack.OverlaySnapshotter, stack.Ref("python-demo"), "daemon-away")
	if err != nil {
		t.Fatal(err, out)
	}
	text, err := os.ReadFile(filepath.Join(s.RunDir(), "starts", s.Namespace, "daemon-away.json"))
	if err != nil || !strings.Contains(string(text), "sproutd-down") {
		t.Errorf("start record: %v %s", err, text)
	}
	resume()
	get(t, s, "daemon-away", "/")
	remove(t, s, "daemon-away")
}

func TestCRIUThatFailsFallsBackToCold(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	setPool(t, s, bakedPython(t, s), 0)
	link := filepath.Join(s.Dir, "criu")
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/bin/false", link); err != nil {
		t.Fatal(err)
	}
	wantCold(t, s, "criu-fails", "restore-failed")
	get(t, s, "criu-fails", "/")
}

func TestFullDiskFallsBackToCold(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "python-demo")
	setPool(t, s, bakedPython(t, s), 0)
	dir := filepath.Join(s.RunDir(), "instances")
	if err := syscall.Mount("full", dir, "tmpfs", 0, "size=16k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(dir, "filler"), make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	wantCold(t, s, "disk-full", "disk-full")
	get(t, s, "disk-full", "/")
}

func TestCorruptedImageFallsBackAndMarksTheSeedBad(t *testing.T) {
	t.Parallel()
	for name, damage := range map[string]func([]byte) []byte{
		"truncated":   func(b []byte) []byte { return b[:len(b)/2] },
		"bit flipped": func(b []byte) []byte { b[len(b)/2] ^= 1; return b },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ownStack(t, "python-demo")
			bakedPython(t, s)
			breakFile(t, largest(t, filepath.Join(s.Dir, "lib", "seeds"), "pages-*.img"), damage)
			out := wantCold(t, s, "corrupted", "seed-bad")
			get(t, s, "corrupted", "/")
			list, err := s.Sprout(t.Context(), "seed", "ls")
			if err != nil || !strings.Contains(list, "bad") {
				t.Errorf("the seed is not shown as bad: %v\n%s\n%s", err, list, out)
			}
			if _, err := s.Sprout(t.Context(), "seed", "verify", "python"); err == nil {
				t.Error("verify finds nothing wrong")
			}
			for _, dry := range [][]string{{"--dry-run"}, nil} {
				if list, err = s.Sprout(t.Context(), append([]string{"seed", "gc"}, dry...)...); err != nil || !strings.Contains(list, "python: bad") {
					t.Errorf("gc %v: %v\n%s", dry, err, list)
				}
			}
			if list, err = s.Sprout(t.Context(), "seed", "ls"); err != nil || strings.Contains(list, "python") {
				t.Errorf("after gc: %v\n%s", err, list)
			}
		})
	}
}

// largest finds the largest file of a pattern below a directory.
func largest(t *testing.T, dir, pattern string) string {
	t.Helper()
	var found string
	var size int64
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if ok, _ := filepath.Match(pattern, filepath.Base(path)); ok && info.Size() > size {
			found, size = path, info.Size()
		}
		return nil
	})
	if err != nil || found == "" {
		t.Fatalf("no %s below %s: %v", pattern, dir, err)
	}
	return found
}

// breakFile replaces a file's content by what damage makes of it.
func breakFile(t *testing.T, path string, damage func([]byte) []byte) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, damage(data), 0o600); err != nil {
		t.Fatal(err)
	}
}
