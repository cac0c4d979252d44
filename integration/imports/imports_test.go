// Package imports holds the import rule of the project as a test: it needs neither root nor a containerd.
package imports

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/sproutrun/sprout"

// forbidden says which package must not import which: imports go one way, cmd → shim → seedpool → thaw|fork|restore → ptrace|linux, snapshotter → seedpool.
// A pattern ending in /... covers all below it.
var forbidden = []struct{ from, to []string }{
	{[]string{"seedpool/linux/...", "seedpool/ptrace/..."}, []string{"cmd/...", "shim/...", "snapshotter/...", "integration/...", "seedpool", "seedpool/thaw/...", "seedpool/fork/...", "seedpool/restore/...", "seedpool/keeper/...", "seedpool/bake/..."}},
	{[]string{"seedpool/thaw/..."}, []string{"cmd/...", "shim/...", "snapshotter/...", "integration/...", "seedpool", "seedpool/fork/...", "seedpool/restore/...", "seedpool/keeper/...", "seedpool/bake/..."}},
	{[]string{"seedpool/fork/..."}, []string{"cmd/...", "shim/...", "snapshotter/...", "integration/...", "seedpool", "seedpool/thaw/...", "seedpool/restore/...", "seedpool/keeper/...", "seedpool/bake/..."}},
	{[]string{"seedpool/restore/..."}, []string{"cmd/...", "shim/...", "snapshotter/...", "integration/...", "seedpool", "seedpool/fork/...", "seedpool/thaw/...", "seedpool/keeper/...", "seedpool/bake/..."}},
	{[]string{"seedpool/..."}, []string{"cmd/...", "shim/...", "snapshotter/...", "integration/..."}},
	{[]string{"snapshotter/..."}, []string{"cmd/...", "shim/...", "integration/..."}},
	{[]string{"shim/..."}, []string{"cmd/...", "snapshotter/...", "integration/..."}},
	{[]string{"cmd/..."}, []string{"integration/..."}},
	{[]string{"integration/..."}, []string{"cmd/...", "shim/...", "snapshotter/...", "seedpool/..."}},
}

// doors are the only packages that may import a package of the kernel's.
var doors = map[string][]string{
	"golang.org/x/sys/unix": {"seedpool/linux", "seedpool/ptrace"},
	"unsafe":                {"seedpool/linux", "seedpool/ptrace"},
}

// listed is what `go list -json` says of one package.
type listed struct {
	ImportPath string
	Imports    []string
}

func packages(t *testing.T) []listed {
	t.Helper()
	c := exec.Command("go", "list", "-json=ImportPath,Imports", module+"/...")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v: %s", err, stderr.String())
	}
	var list []listed
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p listed
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

func matches(pattern, path string) bool {
	if base, all := strings.CutSuffix(pattern, "/..."); all {
		return path == base || strings.HasPrefix(path, base+"/")
	}
	return path == pattern
}

func TestImportsGoOneWay(t *testing.T) {
	for _, p := range packages(t) {
		from := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			// What protoc generates may use unsafe.
			if allowed, guarded := doors[imported]; guarded && !strings.HasPrefix(from, "seedpool/api/") && !slices.Contains(allowed, from) {
				t.Errorf("%s imports %s, which only %v may", from, imported, allowed)
			}
			if !ours || strings.HasPrefix(to, "seedpool/api/") {
				continue
			}
			for _, rule := range forbidden {
				if matchesAny(rule.from, from) && matchesAny(rule.to, to) && !strings.HasPrefix(to, from+"/") {
					t.Errorf("%s imports %s: imports go the other way", from, to)
				}
			}
		}
	}
}

func TestLauncherNeedsTheStandardLibraryOnly(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", module+"/cmd/containerd-shim-sprout-v2").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range strings.Fields(string(out)) {
		if strings.Contains(strings.Split(path, "/")[0], ".") && !strings.HasPrefix(path, module) {
			t.Errorf("the launcher links %s", path)
		}
	}
}

func matchesAny(patterns []string, path string) bool {
	for _, pattern := range patterns {
		if matches(pattern, path) {
			return true
		}
	}
	return false
}
