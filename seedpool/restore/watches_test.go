package restore

import (
	"bufio"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"syscall"
	"testing"
	"time"
)

//go:embed testdata/watcher.py
var watcher string

// events has the watcher tell what it has been told, and what it watches.
func events(t *testing.T, pid int, stdout *os.File) string {
	t.Helper()
	if err := errors.Join(syscall.Kill(pid, syscall.SIGUSR1), stdout.SetReadDeadline(time.Now().Add(10*time.Second))); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	return line
}

func TestWatchesAreTheInstances(t *testing.T) {
	b := newBed(t, "python-demo")
	c := b.boot(b.img.Spec(t, "python3", "-c", watcher))
	if _, err := b.tryDump(c); !errors.Is(err, ErrWatches) {
		t.Errorf("with an event to read: %v", err)
	}
	const watches = "{2: ('/srv', '100'), 3: ('/', '4000100'), 5: ('/srv/app/deep', '80000fff'), 6: ('/srv/app/deep/file', '2'), 7: ('/dev/shm', '100')}\n"
	if got, want := events(t, c.pid, c.stdout), "(2, 256, 'early') "+watches; got != want {
		t.Errorf("the app says %q, want %q", got, want)
	}
	s := b.dump(c)
	for _, name := range []string{"one", "two"} {
		p := b.prepare(s)
		i, err := p.restore(t.Context(), b.criu)
		if err != nil {
			t.Fatal(report(err))
		}
		if err := errors.Join(p.cgroup.Thaw(), os.WriteFile(fmt.Sprintf("/proc/%d/root/srv/%s", i.pid, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
		if got, want := events(t, i.pid, i.stdout), fmt.Sprintf("(2, 256, '%s') %s", name, watches); got != want {
			t.Errorf("an instance says %q, want %q", got, want)
		}
	}
}
