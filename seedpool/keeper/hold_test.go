package keeper

import (
	"bufio"
	_ "embed"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

//go:embed testdata/rounds.py
var rounds string

// checker is a running instance of rounds that shares its memory.
type checker struct {
	*api.Instance
	t       *testing.T
	in, out *os.File
	said    *bufio.Scanner
	pidfd   *linux.Pidfd
}

// frozenChecker makes an instance, whose memory nobody holds but the keeper.
func (b *bed) frozenChecker(id string) *checker {
	b.t.Helper()
	made := b.makeShared(id, false)
	if made.Unshared != nil {
		b.t.Fatal(made.Unshared)
	}
	c := &checker{t: b.t, Instance: made.Instance}
	var err error
	if c.pidfd, err = linux.OpenPidfd(int(c.Pid)); err != nil {
		b.t.Fatal(err)
	}
	if c.in, err = linux.WriteFifo(c.Stdin); err != nil {
		b.t.Fatal(err)
	}
	if c.out, err = linux.ReadFifo(c.Stdout); err != nil {
		b.t.Fatal(err)
	}
	c.said = bufio.NewScanner(c.out)
	b.t.Cleanup(func() {
		for _, f := range []*os.File{c.in, c.out} {
			_ = f.Close()
		}
		_ = c.pidfd.Close()
	})
	return c
}

// checker makes an instance and holds its memory as a shim does; nil: nobody does.
func (b *bed) checker(id string, hold bool) (*checker, *restore.Holder) {
	b.t.Helper()
	c := b.frozenChecker(id)
	var h *restore.Holder
	if hold {
		var err error
		if h, err = restore.Hold(b.t.Context(), c.Memory, linux.Cgroup{Path: c.Cgroup}); err != nil {
			b.t.Fatal(err)
		}
		b.t.Cleanup(func() {
			_ = linux.Cgroup{Path: c.Cgroup}.Kill()
			_ = h.Close()
		})
	}
	if err := (linux.Cgroup{Path: c.Cgroup}).Thaw(); err != nil {
		b.t.Fatal(err)
	}
	return c, h
}

// round has the instance check memory that it has not touched before.
func (c *checker) round() {
	c.t.Helper()
	if _, err := c.in.WriteString("\n"); err != nil {
		c.t.Fatal(err)
	}
	_ = c.out.SetReadDeadline(time.Now().Add(10 * time.Second))
	if !c.said.Scan() || c.said.Text() != "ok" {
		c.t.Fatalf("it says %q, %v", c.said.Text(), c.said.Err())
	}
}

// killed waits for the instance to be ended with SIGKILL.
func (c *checker) killed() {
	c.t.Helper()
	if err := c.pidfd.Wait(c.t.Context()); err != nil {
		c.t.Fatal(err)
	}
	waitFor(c.t, func() bool {
		status, ok, err := c.pidfd.ExitStatus()
		return err == nil && ok && status.Signal() == syscall.SIGKILL
	})
}

func roundsBed(t *testing.T) *bed {
	return newBed(t, "python-demo", "file=/tmp/up", "python3", "-c", rounds)
}

func TestInstanceGoesOnWithItsSecondHolderWhenTheKeeperIsKilled(t *testing.T) {
	b := roundsBed(t)
	c, h := b.checker("one", true)
	for range 3 {
		c.round()
	}
	b.killKeeper()
	for range 5 {
		c.round()
	}
	if err := h.Err(); err != nil {
		t.Error(err)
	}
	b.spawn()
	other, _ := b.checker("other", true)
	other.round()
	c.round()
}

func TestInstanceEndsWhenItsSecondHolderGoes(t *testing.T) {
	b := roundsBed(t)
	c, h := b.checker("one", true)
	c.round()
	if err := h.Close(); err != nil {
		t.Error(err)
	}
	c.killed()
	log, err := os.ReadFile(b.config.Socket + ".log")
	if err != nil || !strings.Contains(string(log), "lost its memory") || !strings.Contains(string(log), c.Id) {
		t.Errorf("the keeper says nothing of it: %s, %v", log, err)
	}
}

func TestMemoryOfAKeeperThatIsDeadCannotBeHeld(t *testing.T) {
	b := roundsBed(t)
	c, _ := b.checker("one", false)
	c.round()
	b.killKeeper()
	if _, err := restore.Hold(t.Context(), c.Memory, linux.Cgroup{Path: c.Cgroup}); err == nil {
		t.Error("a keeper that is dead hands out memory")
	}
}
