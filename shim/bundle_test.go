package shim

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool"
)

func TestBundleThatWasReadAheadIsReadAgainWhenItChanged(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "config.json")
	write := func(name string) {
		t.Helper()
		data := `{"ociVersion":"1.2.0","hostname":"` + name + `","process":{"args":["x"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"cgroupsPath":"/x"}}`
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	early := lookAhead(bundleOf(dir), seedpool.Paths{}, nil)
	first, err := early.bundle(dir, "c1")
	if err != nil || first.spec.Hostname != "one" || first.key == nil || first.cgroup != "/x" {
		t.Fatalf("%+v, %v", first, err)
	}
	if again, err := early.bundle(dir, "c1"); err != nil || again != first {
		t.Errorf("it was read again: %v", err)
	}
	if other, err := early.bundle(dir, "c2"); err != nil || other == first {
		t.Errorf("another container got it: %v", err)
	}
	write("two")
	if err := os.Chtimes(file, time.Time{}, time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	if changed, err := early.bundle(dir, "c1"); err != nil || changed.spec.Hostname != "two" {
		t.Errorf("%+v, %v", changed, err)
	}
	if none, err := lookAhead(bundleOf(t.TempDir()), seedpool.Paths{}, nil).bundle(dir, "c1"); err != nil || none.spec.Hostname != "two" {
		t.Errorf("%+v, %v", none, err)
	}
}

func TestUnreadableBundleIsAnError(t *testing.T) {
	dir := t.TempDir()
	for _, data := range []string{"{", `{"ociVersion":"1.2.0"}`} {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := lookAhead(bundleOf(dir), seedpool.Paths{}, nil).bundle(dir, "c1"); err == nil {
			t.Errorf("%s was read", data)
		}
	}
}

func bundleOf(dir string) seedpool.IdleParams {
	return seedpool.IdleParams{ShimParams: seedpool.ShimParams{Bundle: dir, ID: "c1"}}
}
