package restore

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// nothingLeft makes sure that a restore that has failed has left no process, neither running nor as a child of ours.
func nothingLeft(t *testing.T, c linux.Cgroup) {
	t.Helper()
	if procs, err := c.Procs(); err != nil || len(procs) > 0 {
		t.Errorf("processes are left: %v, %v", procs, err)
	}
	if frozen, err := c.Frozen(); err != nil || frozen {
		t.Errorf("the cgroup is frozen: %v, %v", frozen, err)
	}
	children, err := linux.Children(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		if path, err := linux.UnifiedPath(pid); err == nil && strings.Contains(path, "/instance-") {
			t.Errorf("child %d is left in %s", pid, path)
		}
	}
}

func TestDamagedImageLeavesNothingBehind(t *testing.T) {
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, shell...)))
	whole := map[string][]byte{}
	files, err := os.ReadDir(s.images)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if whole[f.Name()], err = os.ReadFile(filepath.Join(s.images, f.Name())); err != nil {
			t.Fatal(err)
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	for name, data := range whole {
		all := [][]byte{data[:len(data)/2], flipped(data, random), flipped(data, random)}
		if strings.HasPrefix(name, "pages-") {
			// A bit of the app's memory tells nothing to CRIU: the seed's sums guard it.
			all = all[:1]
		}
		for _, damaged := range all {
			damagedCopy := *s
			damagedCopy.images = b.subdir("damaged")
			for n, d := range whole {
				if n == name {
					d = damaged
				}
				if err := os.WriteFile(filepath.Join(damagedCopy.images, n), d, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			i, err := b.tryRestore(ctx, &damagedCopy)
			cancel()
			t.Logf("%-20s %v", name, err)
			if err == nil {
				// What was damaged does not matter: then it is an instance like any other.
				if err := i.cgroup.Kill(); err != nil {
					t.Fatal(err)
				}
				if _, err := i.wait(); err != nil {
					t.Error(err)
				}
				continue
			}
			if e, ok := errors.AsType[*Error](err); !ok || len(e.Log) > logLines {
				t.Errorf("%T, %d lines of log", err, len(e.Log))
			}
			nothingLeft(t, i.cgroup)
		}
	}
}

func flipped(data []byte, random *rand.Rand) []byte {
	data = slices.Clone(data)
	data[random.IntN(len(data))] ^= 1 << random.IntN(8)
	return data
}

func TestRestoreThatIsCancelledLeavesNothingBehind(t *testing.T) {
	before := leftInTmp(t)
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, shell...)))
	cancelled, made := 0, 0
	for after := time.Duration(0); made < 5 && after < time.Second; after += time.Millisecond {
		p := b.prepare(s)
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(after, cancel)
		i, err := p.restore(ctx, b.criu)
		cancel()
		if err != nil {
			cancelled++
			if !errors.Is(err, context.Canceled) {
				t.Errorf("after %s: %v", after, err)
			}
			nothingLeft(t, i.cgroup)
			continue
		}
		made++
		if err := i.cgroup.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := i.wait(); err != nil {
			t.Error(err)
		}
	}
	if cancelled == 0 || made < 5 {
		t.Errorf("%d cancelled, %d made: the delays do not fit", cancelled, made)
	}
	if after := leftInTmp(t); after > before {
		t.Errorf("CRIU has left %d directories in /tmp", after-before)
	}
}

func TestKilledCRIULeavesNothingBehind(t *testing.T) {
	before := leftInTmp(t)
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, shell...)))
	killed := 0
	for after := time.Duration(0); after < 30*time.Millisecond; after += 500 * time.Microsecond {
		p := b.prepare(s)
		done := make(chan struct{})
		go func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				if pid := criuIn(p.cgroup, b.criu.Path); pid > 0 {
					time.Sleep(after)
					_ = syscall.Kill(pid, syscall.SIGKILL)
					return
				}
			}
		}()
		i, err := p.restore(t.Context(), b.criu)
		close(done)
		if err != nil {
			killed++
			nothingLeft(t, i.cgroup)
			continue
		}
		if err := i.cgroup.Kill(); err != nil {
			t.Fatal(err)
		}
		if _, err := i.wait(); err != nil {
			t.Error(err)
		}
	}
	if killed < 10 {
		t.Errorf("%d killed in time", killed)
	}
	if after := leftInTmp(t); after > before {
		t.Errorf("CRIU has left %d directories in /tmp", after-before)
	}
}

// criuIn finds CRIU in a cgroup.
func criuIn(c linux.Cgroup, path string) int {
	procs, err := c.Procs()
	if err != nil {
		return 0
	}
	want, err := filepath.EvalSymlinks(path)
	if err != nil {
		return 0
	}
	for _, pid := range procs {
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Dir(exe) == filepath.Dir(want) {
			return pid
		}
	}
	return 0
}

func TestFailedRestoreSaysWhyAndWhatToDo(t *testing.T) {
	b := newBed(t, "tiny-demo")
	s := b.dump(b.boot(b.img.Spec(t, "sh", "-c", "echo data >/opt/file; exec 3</opt/file; echo up; while :; do sleep 1; done")))
	if err := os.WriteFile(filepath.Join(s.upper, "opt/file"), []byte("another length"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, err := b.tryRestore(t.Context(), s)
	e, ok := errors.AsType[*Error](err)
	if !ok || !strings.Contains(err.Error(), "opt/file has bad size") || !strings.Contains(e.Hint, "bake the seed again") || len(e.Log) == 0 {
		t.Errorf("%+v", err)
	}
}
