package restore

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestTmpOfTheHostIsHiddenAndShownInPart(t *testing.T) {
	// These tests run in a namespace in which it is hidden already.
	host, err := os.MkdirTemp(hostsTmp, "shown-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(host)
	if err := os.WriteFile(filepath.Join(host, "file"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(criuTmpDir, filepath.Base(host))
	if _, err := os.Stat(path); err == nil {
		t.Fatal("it is not hidden")
	}
	for range 2 {
		if err := show("/var", filepath.Join(path, "file"), filepath.Join(criuTmpDir, "nobody", "has", "this")); err != nil {
			t.Fatal(err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(path, "file")); err != nil || string(data) != "x" {
		t.Errorf("%q, %v", data, err)
	}
	if err := linux.Unmount(path); err != nil {
		t.Error(err)
	}
	if err := os.Remove(path); err != nil {
		t.Errorf("it was shown twice: %v", err)
	}
}

func TestDirectoriesOfAnOverlay(t *testing.T) {
	got := overlayDirs([]string{"index=off", "lowerdir=/a:/b", "upperdir=/c", "userxattr"})
	if want := "off /a /b /c"; strings.Join(got, " ") != want {
		t.Errorf("%v, want %s", got, want)
	}
}

// leftInTmp are the directories that CRIU has left in the host's /tmp.
func leftInTmp(t *testing.T) int {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(hostsTmp, ".criu.*"))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}
