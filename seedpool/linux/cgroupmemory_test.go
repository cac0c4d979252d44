package linux

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryOfACgroupIsBoundedByItAndThoseAboveIt(t *testing.T) {
	above := cgroup(t)
	c := Cgroup{Path: filepath.Join(above.Path, "below")}
	must(t, c.Create())
	t.Cleanup(func() { must(t, c.Remove()) })
	used, limit, err := c.Memory()
	must(t, err)
	if used > 1<<20 || limit != 0 {
		t.Errorf("empty: %d bytes used, limit %d", used, limit)
	}
	set := func(c Cgroup, value string) {
		t.Helper()
		for _, root := range get[[]string](t)(Hierarchies()) {
			for _, files := range memoryFiles {
				err := os.WriteFile(filepath.Join(c.in(root), files.limit), []byte(value), 0o644)
				if err == nil {
					return
				}
				if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrPermission) {
					t.Fatal(err)
				}
			}
		}
		t.Fatal("no hierarchy accounts memory")
	}
	set(above, "67108864")
	if _, limit, err := c.Memory(); err != nil || limit != 64<<20 {
		t.Errorf("limit above: %d, %v", limit, err)
	}
	set(c, "33554432")
	if _, limit, err := c.Memory(); err != nil || limit != 32<<20 {
		t.Errorf("limit of its own: %d, %v", limit, err)
	}
	if _, _, err := (Cgroup{Path: "/no-such-cgroup"}).Memory(); err != nil {
		t.Errorf("a cgroup that does not exist: %v", err)
	}
}
