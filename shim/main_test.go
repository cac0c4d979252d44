package shim

import (
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
)

// TestMain makes the test process what a shim is: the reaper of all that descends from it.
func TestMain(m *testing.M) {
	if err := reaper.SetSubreaper(1); err != nil {
		fmt.Fprintln(os.Stderr, "set subreaper:", err)
		os.Exit(1)
	}
	runc.Monitor = reaper.Default
	children := make(chan os.Signal, 32)
	signal.Notify(children, syscall.SIGCHLD)
	go func() {
		for range children {
			if err := reaper.Reap(); err != nil {
				fmt.Fprintln(os.Stderr, "reap:", err)
			}
		}
	}()
	os.Exit(m.Run())
}

// tool is the path of a program that `make tools` has put into _out/bin. A test that needs one that is missing fails.
func tool(t *testing.T, name string) string {
	t.Helper()
	out := os.Getenv("SPROUT_OUT")
	if out == "" {
		out = "../_out"
	}
	path, err := filepath.Abs(filepath.Join(out, "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("find %s: %v; run `make tools`", name, err)
	}
	return path
}
