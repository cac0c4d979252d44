package shim

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"

	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestStatusIsTakenFromTheKernel(t *testing.T) {
	for _, c := range []struct {
		script string
		want   uint32
	}{{"read x; exit 7", 7}, {"read x; kill -9 $$", 137}, {"read x; kill -15 $$", 143}, {"read x", 1}} {
		t.Run(c.script, func(t *testing.T) {
			cmd := exec.Command("/bin/sh", "-c", c.script)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			exits, err := startChild(cmd)
			if err != nil {
				t.Fatal(err)
			}
			p, err := linux.OpenPidfd(cmd.Process.Pid)
			if err != nil {
				t.Fatal(err)
			}
			defer p.Close()
			mustClose(t, stdin)
			got := waitForExit(t.Context(), p, filepath.Join(t.TempDir(), "exit"))
			if got.Status != c.want || time.Since(got.At) > time.Minute {
				t.Errorf("exit %v, want status %d", got, c.want)
			}
			if _, err := reaper.Default.Wait(cmd, exits); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestStatusThatTheKeeperWroteIsReadAsAShellShowsIt(t *testing.T) {
	file := filepath.Join(t.TempDir(), "exit")
	at := time.Now().UTC().Truncate(time.Second)
	for raw, want := range map[syscall.WaitStatus]uint32{0x700: 7, 9: 137, 0: 0} {
		data := fmt.Sprintf(`{"status":%d,"at":%q}`, raw, at.Format(time.RFC3339Nano))
		if err := os.WriteFile(file, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readKeeperExit(file)
		if err != nil || got.Status != want || !got.At.Equal(at) {
			t.Errorf("status %#x read as %v, %v, want %d", raw, got, err, want)
		}
	}
	if err := os.WriteFile(file, []byte(`{"status":`), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := readKeeperExit(file); err == nil {
		t.Errorf("half a file read as %v", got)
	}
}

func TestExitOfAChildIsNotMissedHoweverShortItLives(t *testing.T) {
	for range 50 {
		c := expectChild()
		cmd := exec.Command("/bin/true")
		exits, err := startChild(cmd)
		if err != nil {
			t.Fatal(err)
		}
		// The exit is seen before anybody says whose it is.
		if _, err := reaper.Default.Wait(cmd, exits); err != nil {
			t.Fatal(err)
		}
		select {
		case e := <-c.is(cmd.Process.Pid):
			if e.Pid != cmd.Process.Pid || e.Status != 0 {
				t.Errorf("exit %v of %d", e, cmd.Process.Pid)
			}
		case <-time.After(5 * time.Second):
			t.Fatal("exit was missed")
		}
	}
}
