package integration

import (
	"bytes"
	"errors"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/capability"
)

// knockEnv names a socket: this binary is then a program that connects to it and says what it hears (TestMain).
const knockEnv = "SPROUT_TEST_KNOCK"

// knock connects to a socket and waits for what happens.
func knock(path string) string {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
		return err.Error()
	}
	switch n, err := conn.Read(make([]byte, 1)); {
	case n > 0 || errors.Is(err, os.ErrDeadlineExceeded):
		return "let in"
	default:
		return "hung up on"
	}
}

// TestOurSocketsHearOnlyRoot has somebody else at the doors for whom modes of files and directories are no obstacle.
func TestOurSocketsHearOnlyRoot(t *testing.T) {
	s := house
	setPool(t, s, bakedPython(t, s), 1)
	run(t, s, "doors", "python-demo")
	wantRung(t, s, "doors", "thaw")
	address, err := os.ReadFile(filepath.Join(s.Dir, "state", "io.containerd.runtime.v2.task", s.Namespace, "doors", "sprout.address"))
	if err != nil {
		t.Fatal(err)
	}
	doors := append(sockets(t, s.RunDir()), strings.TrimPrefix(string(bytes.TrimSpace(address)), "unix://"))
	for _, name := range []string{"sproutd.sock", "snapshotter.sock", "assign.sock", "metrics.sock", "keepers"} {
		if !slices.ContainsFunc(doors, func(door string) bool { return strings.HasPrefix(door, filepath.Join(s.RunDir(), name)) }) {
			t.Errorf("%s is not among %v", name, doors)
		}
	}
	for _, door := range doors {
		if info, err := os.Stat(door); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", door, info.Mode(), err)
		}
		if heard := knock(door); heard != "let in" {
			t.Errorf("root at %s: %s", door, heard)
		}
		other := exec.Command("/proc/self/exe")
		other.Env = append(os.Environ(), knockEnv+"="+door)
		other.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}, AmbientCaps: []uintptr{uintptr(capability.CAP_DAC_OVERRIDE)}}
		if heard, err := other.Output(); err != nil || string(heard) != "hung up on" {
			t.Errorf("another user at %s: %s, %v", door, heard, err)
		}
	}
}

func sockets(t *testing.T, dir string) (list []string) {
	t.Helper()
	walk(t, dir, func(path string, info fs.FileInfo) bool {
		if info.Mode().Type() == fs.ModeSocket {
			list = append(list, path)
		}
		return true
	})
	return list
}

// walk calls look for everything below a directory, which may change meanwhile; false: not for what lies below.
func walk(t *testing.T, dir string, look func(path string, info fs.FileInfo) bool) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !look(path, info) && entry.IsDir() {
			return fs.SkipDir
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatWeKeepIsRootsAlone looks at all files of sproutd's, while there is a seed, a spare, a template and a container.
func TestWhatWeKeepIsRootsAlone(t *testing.T) {
	for _, way := range []wake{wakes[0], wakes[3]} {
		t.Run(way.name, func(t *testing.T) {
			s := way.ready(t)
			id := "private-" + way.name
			run(t, s, id, "python-demo")
			wantRung(t, s, id, way.rung)
			for _, dir := range []string{s.RunDir(), filepath.Join(s.Dir, "lib")} {
				walk(t, dir, func(path string, info fs.FileInfo) bool {
					switch filepath.Base(path) {
					case "fs", "work", "upperdir", "workdir":
						return false // a container's root file system, whose users it has to let in
					case "stats-restore":
						return true // CRIU's, of its own doing
					}
					if info.Sys().(*syscall.Stat_t).Uid != 0 || info.Mode().Type() != fs.ModeSymlink && info.Mode().Perm()&0o077 != 0 {
						t.Errorf("%s is %v", path, info.Mode())
					}
					return true
				})
			}
		})
	}
}
