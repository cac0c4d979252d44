package fork

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

func timeout(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// start runs a program as the first process of namespaces of its own and waits until it says "ready".
func start(t testing.TB, args ...string) int {
	t.Helper()
	script := `mount --make-rprivate / && mount -t proc proc /proc && exec "$@"`
	cmd := exec.Command("/bin/sh", append([]string{"-c", script, "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = in.Close() })
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	ns, err := linux.NewNetNS()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := linux.Enter([]linux.NS{{File: ns}}, cmd.Start); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); strings.TrimSpace(line) != "ready" {
		t.Fatalf("%v says %q: %v", args, line, err)
	}
	return cmd.Process.Pid
}

func startWitness(t testing.TB) int {
	t.Helper()
	script, err := filepath.Abs("testdata/witness.py")
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
		t.Fatal(err)
	}
	return start(t, "/usr/bin/python3", script, file)
}

func makeTemplate(t testing.TB, pid int) *Template {
	t.Helper()
	return makeDropping(t, pid, nil)
}

func makeDropping(t testing.TB, pid int, origin *Origin) *Template {
	t.Helper()
	template, err := NewTemplate(timeout(t), Source{pid, origin})
	// A signal on its way, or the connection of the last request, is gone a moment later.
	deadline := time.Now().Add(5 * time.Second)
	for refused := new(RefusedError); errors.As(err, &refused) && time.Now().Before(deadline); {
		if r := refused.Refusals[0]; r.Fix != TryAgain && r.Code != CodeConnected {
			break
		}
		time.Sleep(10 * time.Millisecond)
		template, err = NewTemplate(timeout(t), Source{pid, origin})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := template.Close(); err != nil {
			t.Error(err)
		}
	})
	return template
}

func makeClone(t testing.TB, template *Template) *Clone {
	t.Helper()
	c, err := template.Clone(timeout(t), Sandbox{Hostname: "clone", Proc: true, OwnNet: true}, Files{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Discard() })
	return c
}

func release(t testing.TB, c *Clone) {
	t.Helper()
	if err := c.Release(); err != nil {
		t.Fatal(err)
	}
}

// answer of the witness.
type answer struct {
	Count, PID, Threads, Offset, Event, Sum, Early, Alive int
	Shared, File, Host                                    string
}

// get asks the process for an URL's path from inside its network namespace.
func get(t testing.TB, pid int, path string) string {
	t.Helper()
	ns, err := linux.NSFile(pid, "net")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	dial := func(context.Context, string, string) (conn net.Conn, err error) {
		enter := linux.Enter([]linux.NS{{File: ns}}, func() error {
			conn, err = net.Dial("tcp", "127.0.0.1:8080")
			return err
		})
		return conn, enter
	}
	client := http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	r, err := client.Get("http://witness" + path)
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(body)
}

func ask(t testing.TB, pid int) (a answer) {
	t.Helper()
	body := get(t, pid, "/")
	if err := json.Unmarshal([]byte(body), &a); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return a
}

func proc(t testing.TB, pid int, format string, args ...any) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/", pid) + fmt.Sprintf(format, args...))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestMain keeps descriptors that the tests' own parent left open from the programs they start: a pipe to somewhere is refused, as it should be.
func TestMain(m *testing.M) {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		panic(err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	os.Exit(m.Run())
}
