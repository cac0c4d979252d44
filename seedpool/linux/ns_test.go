package linux

import (
	"os"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

func TestEnterNeverChangesTheNamespacesOfTheMainThread(t *testing.T) {
	before, err := os.Readlink("/proc/self/ns/uts")
	if err != nil {
		t.Fatal(err)
	}
	for range 200 {
		err := Enter(nil, func() error {
			if unix.Gettid() == unix.Getpid() {
				t.Error("entered on the main thread")
			}
			return unix.Unshare(unix.CLONE_NEWUTS)
		})
		if err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
	after, err := os.Readlink("/proc/self/ns/uts")
	if err != nil || after != before {
		t.Errorf("main thread is in %s now, was in %s: %v", after, before, err)
	}
}
