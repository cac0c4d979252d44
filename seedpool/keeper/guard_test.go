package keeper

import (
	"bufio"
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

//go:embed testdata/dropping.py
var dropping string

// secondArg has this program be the second holder of memories, as a shim is.
const secondArg = "second"

// beSecond holds what its arguments are, a path and a cgroup each, and says so.
func beSecond() error {
	for args := os.Args[2:]; len(args) > 0; args = args[2:] {
		if _, err := restore.Hold(context.Background(), args[0], linux.Cgroup{Path: args[1]}); err != nil {
			return err
		}
	}
	fmt.Println("held")
	select {}
}

// second starts a process that holds the memory of some instances.
func second(t *testing.T, list ...*checker) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", secondArg)
	for _, c := range list {
		cmd.Args = append(cmd.Args, c.Memory, c.Cgroup)
	}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "held\n" {
		t.Fatalf("second holder says %q, %v", line, err)
	}
	return cmd
}

// dropped makes instances that drop memory all the time, with a second holder in a process of its own.
func (b *bed) dropped(n int) ([]*checker, *exec.Cmd) {
	b.t.Helper()
	var list []*checker
	for k := range n {
		list = append(list, b.frozenChecker(fmt.Sprintf("instance-%d", k)))
	}
	cmd := second(b.t, list...)
	for _, c := range list {
		if err := (linux.Cgroup{Path: c.Cgroup}).Thaw(); err != nil {
			b.t.Fatal(err)
		}
		c.says("dropping")
	}
	return list, cmd
}

// says waits for a line.
func (c *checker) says(want string) {
	c.t.Helper()
	_ = c.out.SetReadDeadline(time.Now().Add(10 * time.Second))
	if !c.said.Scan() || c.said.Text() != want {
		c.t.Fatalf("it says %q, %v", c.said.Text(), c.said.Err())
	}
}

// endsUnharmed waits until the instance was killed. It must not have seen a wrong page before.
func (c *checker) endsUnharmed() {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
	defer cancel()
	if err := c.pidfd.Wait(ctx); err != nil {
		c.t.Errorf("it runs on: %v", err)
	}
	_ = c.out.SetReadDeadline(time.Now().Add(10 * time.Second))
	for c.said.Scan() {
		if c.said.Text() != "dropping" {
			c.t.Errorf("it says %q", c.said.Text())
			return
		}
	}
}

func TestInstanceWhoseKeeperAndShimAreKilledAtOnceSeesNothingWrongAndEnds(t *testing.T) {
	b := newBed(t, "python-demo", "file=/tmp/up", "python3", "-c", dropping)
	list, second := b.dropped(4)
	keeper := b.pid()
	// The guard is one of whom there is always another.
	old := guardOf(t, keeper)
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		now := guardOf(t, keeper)
		return now != 0 && now != old && userfaultfds(now) == len(list)
	})
	for _, pid := range []int{keeper, second.Process.Pid} {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range list {
		c.endsUnharmed()
	}
	log, err := os.ReadFile(b.config.Socket + ".log")
	if err != nil || !strings.Contains(string(log), fmt.Sprintf("pid=%d", list[0].Pid)) {
		t.Errorf("nobody says that it was killed: %s, %v", log, err)
	}
}

// guardOf is the pid of a keeper's guard; 0: there is none.
func guardOf(t *testing.T, keeper int) int {
	t.Helper()
	children, err := linux.Children(keeper)
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range children {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasSuffix(string(line), "\x00"+GuardArg+"\x00") {
			return pid
		}
	}
	return 0
}

// userfaultfds is how many a process has open.
func userfaultfds(pid int) (n int) {
	list, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	for _, entry := range list {
		if link, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, entry.Name())); link == "anon_inode:[userfaultfd]" {
			n++
		}
	}
	return n
}
