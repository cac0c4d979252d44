package integration

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// stateFiles are files below sproutd's state directory, and their size together.
func stateFiles(t *testing.T, s *stack.Stack, pattern string) (names []string, bytes int64) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(s.Dir, pattern))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil {
			t.Fatal(err)
		}
		bytes += info.Size()
	}
	return names, bytes
}

func TestSeedsInThePageStoreAreWokenAndTakeLittleDisk(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Restoring+"[pages]\nstore = true", "python-demo")
	seed := bakedPython(t, s)
	if plain, _ := stateFiles(t, s, "lib/seeds/*/images/pages-*.img"); len(plain) > 0 {
		t.Errorf("the seed's memory is in %v, too", plain)
	}
	_, hot := stateFiles(t, s, "lib/images-*/*/pages-*.img")
	packs, stored := stateFiles(t, s, "lib/pages/packs/*.pack")
	if stored == 0 || stored > hot/3 {
		t.Errorf("%d bytes of memory take %d on disk", hot, stored)
	}
	t.Logf("%d bytes of memory take %d on disk", hot, stored)
	for _, rung := range wokenRungs {
		setPool(t, s, seed, rung.spares)
		id := "paged-" + rung.name
		run(t, s, id, "python-demo")
		get(t, s, id, "/")
		wantRung(t, s, id, rung.name)
		if rung.name == "restore" {
			doze(t, s, id)
			if has, all := onDisk(t, s, id); has > all/4 {
				t.Errorf("asleep it takes %d of %d bytes on disk", has, all)
			}
			rouse(t, s, id)
			get(t, s, id, "/")
		}
		remove(t, s, id)
	}
	for _, c := range []struct{ verb, says string }{{"inspect", "unique"}, {"verify", "0 problems"}} {
		if out, err := s.Sprout(t.Context(), "seed", c.verb, seed); err != nil || !strings.Contains(out, c.says) {
			t.Errorf("%s: %v: %s", c.verb, err, out)
		}
	}

	reboot(t, s, func() {})
	run(t, s, "paged-again", "python-demo")
	get(t, s, "paged-again", "/")
	wantRung(t, s, "paged-again", "restore")

	reboot(t, s, func() { flip(t, packs[0]) })
	run(t, s, "paged-cold", "python-demo")
	get(t, s, "paged-cold", "/")
	wantRung(t, s, "paged-cold", "cold")
	for _, verb := range []string{"inspect", "verify"} {
		out, _ := s.Sprout(t.Context(), "seed", verb, seed)
		if !strings.Contains(out, filepath.Base(packs[0])) || !strings.Contains(out, "of pages-1.img") {
			t.Errorf("%s of a damaged seed: %s", verb, out)
		}
	}

	// Baked again, it stores anew what is damaged.
	if _, err := s.Sprout(t.Context(), "seed", "bake", "--mode", "clone", "--name", seed, "--image", stack.Ref("python-demo"), "--ready", "http://:8080/"); err != nil {
		t.Fatal(err)
	}
	run(t, s, "paged-anew", "python-demo")
	get(t, s, "paged-anew", "/")
	wantRung(t, s, "paged-anew", "restore")
	if _, err := s.Sprout(t.Context(), "seed", "rm", seed); err != nil {
		t.Fatal(err)
	}
	if left := inPageStore(t, s); len(left) > 0 {
		t.Errorf("left of a removed seed: %v", left)
	}
}

func TestBakeThatIsKilledOrTooLargeLeavesNothingInThePageStore(t *testing.T) {
	t.Parallel()
	s := configuredStack(t, stack.Restoring+"[pages]\nstore = true\nquota = \"1MiB\"", "python-demo")
	bake := []string{"seed", "bake", "--mode", "clone", "--name", "large", "--image", stack.Ref("python-demo"), "--ready", "http://:8080/"}
	out, err := s.Sprout(t.Context(), bake...)
	if err == nil || !strings.Contains(out, "quota of 1048576 bytes") {
		t.Errorf("bake beyond the quota: %v: %s", err, out)
	}
	if left := inPageStore(t, s); len(left) > 0 {
		t.Errorf("left of a seed that is too large: %v", left)
	}

	ended := make(chan error, 1)
	s = configuredStack(t, stack.Restoring+"[pages]\nstore = true", "python-demo")
	go func() {
		_, err := s.Sprout(t.Context(), bake...)
		ended <- err
	}()
	await(t, "the bake to store pages", func() bool { return len(inPageStore(t, s)) > 0 })
	kill(t, s.SproutdPID())
	s.WaitSproutd()
	if err := <-ended; err == nil {
		t.Error("the bake was ready before the kill")
	}
	if err := s.StartSproutd(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, "recovery to remove them", func() bool { return len(inPageStore(t, s)) == 0 })
}

func inPageStore(t *testing.T, s *stack.Stack) []string {
	t.Helper()
	var names []string
	for _, pattern := range []string{"lib/pages/packs/*", "lib/pages/manifests/*", "lib/images-*/*"} {
		found, err := filepath.Glob(filepath.Join(s.Dir, pattern))
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, found...)
	}
	return names
}

// await looks every few milliseconds: files of another process have nothing to wait on.
func await(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("no end of the wait for %s", what)
		}
	}
}

// reboot kills sproutd, removes what it has written out of the page store, as after a reboot, and starts it again. meanwhile is called in between.
func reboot(t *testing.T, s *stack.Stack, meanwhile func()) {
	t.Helper()
	kill(t, s.SproutdPID())
	s.WaitSproutd()
	if err := os.RemoveAll(filepath.Dir(only(t, s, "lib/images-*/*/pages-*.img"))); err != nil {
		t.Fatal(err)
	}
	meanwhile()
	if err := s.StartSproutd(t.Context()); err != nil {
		t.Fatal(err)
	}
	// containerd takes a moment to connect to it again.
	eventually(t, func() error {
		_, err := s.Ctr(t.Context(), "snapshots", "--snapshotter", stack.Snapshotter, "ls")
		return err
	})
}

// only is the one file of a stack that a pattern finds.
func only(t *testing.T, s *stack.Stack, pattern string) string {
	t.Helper()
	names, _ := stateFiles(t, s, pattern)
	if len(names) != 1 {
		t.Fatalf("%d files %s, want one", len(names), pattern)
	}
	return names[0]
}

// flip changes a bit in the middle of a file.
func flip(t *testing.T, name string) {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}
