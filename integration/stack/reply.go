package stack

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
)

// AwaitReply asks http://127.0.0.1:port/ inside a container's network namespace until the answer is 200, and returns an error when that takes longer
// than the timeout. A refused connection is tried again a millisecond later: a client has no better sign that a server has begun to listen.
func AwaitReply(ctx context.Context, pid int, port string, timeout time.Duration) error {
	deadline := time.Now().Add(timeout)
	return InNetNS(pid, func() error {
		for {
			err := askOnce(port, "/", nil)
			if err == nil {
				return nil
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("wait for the first reply: %w", err)
			}
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(time.Millisecond):
			}
		}
	})
}

// Get asks for one path inside a container's network namespace and returns the body of a 200.
func Get(pid int, port, path string) (string, error) {
	var body strings.Builder
	err := InNetNS(pid, func() error { return askOnce(port, path, &body) })
	return body.String(), err
}

// GetMany asks for one path n times and returns at the first that is not answered by a 200.
func GetMany(pid int, port, path string, n int) error {
	return InNetNS(pid, func() error {
		for i := range n {
			if err := askOnce(port, path, nil); err != nil {
				return fmt.Errorf("request %d of %d: %w", i+1, n, err)
			}
		}
		return nil
	})
}

// InNetNS runs fn on a thread that is in the network namespace of a process; the thread ends with the call.
func InNetNS(pid int, fn func() error) error {
	result := make(chan error, 1)
	go func() {
		// Never unlocked: a thread in a foreign namespace must not serve another goroutine.
		runtime.LockOSThread()
		if syscall.Gettid() == os.Getpid() {
			// The main thread cannot end, and /proc/self would show its namespaces ever after: keep it busy and take another.
			defer runtime.UnlockOSThread()
			result <- InNetNS(pid, fn)
			return
		}
		result <- inNetNS(pid, fn)
	}()
	return <-result
}

func inNetNS(pid int, fn func() error) error {
	ns, err := netns.GetFromPid(pid)
	if err != nil {
		return fmt.Errorf("open network namespace of %d: %w", pid, err)
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		return fmt.Errorf("enter network namespace of %d: %w", pid, err)
	}
	return fn()
}

// askOnce speaks HTTP on one connection of this thread: the standard client dials from goroutines of its own, which are in another namespace.
func askOnce(port, path string, body *strings.Builder) error {
	conn, err := net.DialTimeout("tcp4", "127.0.0.1:"+port, 5*time.Second)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", path); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("status %s", resp.Status)
	}
	if body == nil {
		body = new(strings.Builder)
	}
	_, err = bufio.NewReader(resp.Body).WriteTo(body)
	return err
}

// SparePIDs lists the processes in the cgroups of the pool's spares.
func (s *Stack) SparePIDs() ([]int, error) { return s.poolPIDs("spares", "*") }

// TemplatePIDs lists the seeds' templates and their zygotes.
func (s *Stack) TemplatePIDs() ([]int, error) { return s.poolPIDs("templates", "*", "*") }

// poolPIDs lists the processes in the pool's cgroups that a pattern matches.
func (s *Stack) poolPIDs(below ...string) ([]int, error) {
	var pids []int
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		files, err := filepath.Glob(filepath.Join(root, s.CgroupRoot(), filepath.Join(below...), "cgroup.procs"))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			for _, field := range strings.Fields(string(data)) {
				pid, err := strconv.Atoi(field)
				if err != nil {
					return nil, err
				}
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}
