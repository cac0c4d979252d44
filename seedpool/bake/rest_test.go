package bake

import (
	"bufio"
	"errors"
	"os"
	"os/exec"
	"strconv"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// busy runs a shell in a cgroup of its own. It waits for a line before it runs the script, and says "end" behind it.
func busy(t *testing.T, script string) (c linux.Cgroup, said chan string) {
	t.Helper()
	c = linux.Cgroup{Path: "/sprout-rest-" + strconv.Itoa(os.Getpid())}
	if err := c.Create(); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sh", "-c", "read line; "+script+"; echo end; exec sleep 1000")
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start(), c.Attach(cmd.Process.Pid)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Kill(); err != nil {
			t.Error(err)
		}
		_ = cmd.Wait()
		if err := c.Remove(); err != nil {
			t.Error(err)
		}
	})
	if _, err := in.Write([]byte("go\n")); err != nil {
		t.Fatal(err)
	}
	said = make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(out).ReadString('\n')
		said <- line
	}()
	return c, said
}

func TestRestWaitsForTheEndOfTheWork(t *testing.T) {
	c, said := busy(t, "i=0; while [ $i -lt 1000000 ]; do i=$((i+1)); done")
	if err := rest(t.Context(), c, time.Minute); err != nil {
		t.Fatal(err)
	}
	select {
	case <-said:
	default:
		t.Error("it was still at work")
	}
}

func TestRestDoesNotWaitForAnAppThatNeverRests(t *testing.T) {
	c, said := busy(t, "while :; do :; done")
	if err := rest(t.Context(), c, 5*restEvery); err != nil {
		t.Error(err)
	}
	select {
	case line := <-said:
		t.Errorf("it said %q", line)
	default:
	}
}
