package seedpool

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// idleProcess stands for `sprout-shim idle`: it answers as shim.Idle does, writes what it was told to the address, and lives on until its file is removed.
func idleProcess(kind string) error {
	control, err := net.FileConn(os.NewFile(3, "control"))
	if err != nil {
		return err
	}
	switch kind {
	case "dead":
		return errors.New("cannot live")
	case "young":
		_, err := control.Read(make([]byte, 1)) // until sproutd ends
		return err
	}
	if _, err := control.Write([]byte(`{"ready":true}` + "\n")); err != nil {
		return err
	}
	line, err := bufio.NewReader(control).ReadBytes('\n')
	if err != nil {
		return nil //nolint:nilerr // nobody wants us: the end
	}
	switch kind {
	case "slow":
		time.Sleep(10 * time.Second)
	case "refuses":
		_, err = control.Write([]byte(`{"error":"address in use"}` + "\n"))
		return err
	}
	var p IdleParams
	if err := json.Unmarshal(line, &p); err != nil {
		return err
	}
	if err := os.WriteFile(p.Address, fmt.Appendf(nil, "%d %s %s %s", os.Getpid(), p.ID, p.Rung, p.Upperdir), 0o600); err != nil {
		return err
	}
	if _, err := control.Write([]byte(`{"ok":true}` + "\n")); err != nil {
		return err
	}
	_ = control.Close()
	for {
		if _, err := os.Stat(p.Address); err != nil {
			return nil //nolint:nilerr // the test is over
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// shimBed serves idle shims on a socket.
type shimBed struct {
	t      *testing.T
	shims  *Shims
	socket string
	dir    string
	stop   func()
}

func newShimBed(t *testing.T, kind string, idle int) *shimBed {
	t.Helper()
	t.Setenv(processEnv, kind)
	dir, err := os.MkdirTemp("", "sh")
	if err != nil {
		t.Fatal(err)
	}
	own, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := Default()
	c.RunDir, c.Shim, c.IdleShims = dir, own, idle
	shims, err := NewShims(t.Context(), c, func(_, id string) Foreseen {
		if id == "c1" {
			return Foreseen{}
		}
		return Foreseen{RungFork, "/upper/of/" + id}
	})
	if err != nil {
		t.Fatal(err)
	}
	b := &shimBed{t: t, shims: shims, socket: filepath.Join(dir, "assign.sock"), dir: dir}
	l, err := net.Listen("unix", b.socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- shims.Serve(l) }()
	b.stop = sync.OnceFunc(func() {
		_ = l.Close()
		shims.Close()
		if err := <-done; !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		b.stop()
		_ = os.RemoveAll(dir)
	})
	return b
}

func (b *shimBed) waitIdle(n int) []int {
	b.t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		b.shims.mu.Lock()
		var pids []int
		up := true
		for _, one := range b.shims.idle {
			pids = append(pids, one.cmd.Process.Pid)
			up = up && one.ready
		}
		b.shims.mu.Unlock()
		if len(pids) == n && up {
			return pids
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("%d shims are idle, want %d", len(pids), n)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// ask speaks as the launcher does.
func (b *shimBed) ask(request string) (address, errText string) {
	b.t.Helper()
	conn, err := net.Dial("unix", b.socket)
	if err != nil {
		b.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(request + "\n")); err != nil {
		b.t.Fatal(err)
	}
	var reply struct{ Address, Error string }
	if err := json.NewDecoder(conn).Decode(&reply); err != nil {
		b.t.Fatal(err)
	}
	return reply.Address, reply.Error
}

func (b *shimBed) request(id string) string {
	data, err := json.Marshal(struct {
		Op string `json:"op"`
		ShimParams
	}{"assign", ShimParams{ID: id, Address: filepath.Join(b.dir, id)}})
	if err != nil {
		b.t.Fatal(err)
	}
	return string(data)
}

func TestAnIdleShimIsGivenToOneLauncherOnlyAndReplaced(t *testing.T) {
	b := newShimBed(t, "idle", 3)
	b.waitIdle(3)
	var wg sync.WaitGroup
	for n := range 3 {
		wg.Go(func() {
			id := fmt.Sprintf("c%d", n)
			if address, errText := b.ask(b.request(id)); errText != "" || address != filepath.Join(b.dir, id) {
				t.Errorf("%s: address %q, error %q", id, address, errText)
			}
		})
	}
	wg.Wait()
	pids := map[string]bool{}
	for n := range 3 {
		data, err := os.ReadFile(filepath.Join(b.dir, fmt.Sprintf("c%d", n)))
		if err != nil {
			t.Fatal(err)
		}
		pid, id, _ := strings.Cut(string(data), " ")
		id, foreseen, _ := strings.Cut(id, " ")
		if (n == 1) != (foreseen == " ") || n != 1 && foreseen != "fork /upper/of/"+id {
			t.Errorf("%s: foreseen %q", id, foreseen)
		}
		if id != fmt.Sprintf("c%d", n) || pids[pid] {
			t.Errorf("shim %s serves %s", pid, id)
		}
		pids[pid] = true
	}
	b.waitIdle(3)
}

func TestIdleShimsEndWithSproutdAndAssignedOnesDoNot(t *testing.T) {
	b := newShimBed(t, "idle", 2)
	idle := b.waitIdle(2)
	if _, errText := b.ask(b.request("c1")); errText != "" {
		t.Fatal(errText)
	}
	b.stop()
	data, err := os.ReadFile(filepath.Join(b.dir, "c1"))
	if err != nil {
		t.Fatal(err)
	}
	var assigned int
	if _, err := fmt.Sscanf(string(data), "%d", &assigned); err != nil {
		t.Fatal(err)
	}
	for _, pid := range idle {
		start, err := linux.StartTime(pid)
		alive := err == nil && linux.Alive(pid, start)
		if alive != (pid == assigned) {
			t.Errorf("shim %d, assigned %t, lives %t", pid, pid == assigned, alive)
		}
	}
	remove(t, filepath.Join(b.dir, "c1"))
}

func TestAShimThatIsNotReadyIsNotGivenAway(t *testing.T) {
	b := newShimBed(t, "young", 1)
	began := time.Now()
	if _, errText := b.ask(b.request("c1")); errText != "no shim is idle" || time.Since(began) > assignTimeout {
		t.Errorf("error %q after %s", errText, time.Since(began))
	}
	var hung *idleShim
	for hung == nil {
		time.Sleep(5 * time.Millisecond)
		b.shims.mu.Lock()
		if len(b.shims.idle) > 0 {
			hung = b.shims.idle[0]
		}
		b.shims.mu.Unlock()
	}
	select {
	case <-hung.ended:
	case <-time.After(2 * readyTimeout):
		t.Error("one that hangs is kept")
	}
}

func TestAnIdleShimThatDiesIsReplaced(t *testing.T) {
	b := newShimBed(t, "idle", 1)
	pid := b.waitIdle(1)[0]
	killPID(t, pid)
	deadline := time.Now().Add(10 * time.Second)
	for b.waitIdle(1)[0] == pid {
		if time.Now().After(deadline) {
			t.Fatal("the dead shim is still on the list")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestAShimThatCannotLiveIsNotStartedInALoop(t *testing.T) {
	b := newShimBed(t, "dead", 1)
	time.Sleep(500 * time.Millisecond) // the time in which a loop would start hundreds
	if _, errText := b.ask(b.request("c1")); errText == "" {
		t.Error("a dead shim was assigned")
	}
	b.shims.mu.Lock()
	defer b.shims.mu.Unlock()
	if n := len(b.shims.idle); n > 1 {
		t.Errorf("%d shims", n)
	}
}

func TestALauncherIsToldAtOnceWhenItCannotHaveAShim(t *testing.T) {
	for name, c := range map[string]struct {
		kind, request, says string
		idle                int
	}{
		"none is idle":      {"idle", "", "no shim is idle", 0},
		"shim is slow":      {"slow", "", "timeout", 1},
		"shim refuses":      {"refuses", "", "address in use", 1},
		"another operation": {"idle", `{"op":"dance"}`, "dance", 1},
		"no JSON":           {"idle", "hello", "read request", 1},
		"no address":        {"idle", `{"op":"assign"}`, "address", 1},
	} {
		t.Run(name, func(t *testing.T) {
			b := newShimBed(t, c.kind, c.idle)
			b.waitIdle(c.idle)
			request := c.request
			if request == "" {
				request = b.request("c1")
			}
			began := time.Now()
			if _, errText := b.ask(request); !strings.Contains(errText, c.says) {
				t.Errorf("error %q, want %q", errText, c.says)
			}
			if took := time.Since(began); took > 95*time.Millisecond+assignTimeout {
				t.Errorf("it took %s", took)
			}
		})
	}
}
