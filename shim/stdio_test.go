package shim

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/stdio"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// pipeBed is an instance of pipes only: app holds the app's ends, keeper those of the keeper, asked is what containerd asked for.
type pipeBed struct {
	dir    string
	inst   *api.Instance
	app    [3]*os.File
	keeper []*os.File
	asked  stdio.Stdio
}

func newPipeBed(t *testing.T) *pipeBed {
	t.Helper()
	dir := t.TempDir()
	started, err := linux.StartTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	b := &pipeBed{dir: dir, inst: &api.Instance{Pid: uint32(os.Getpid()), StartTime: started}}
	for i, path := range []*string{&b.inst.Stdin, &b.inst.Stdout, &b.inst.Stderr} {
		*path = filepath.Join(dir, fmt.Sprint(i))
		mustFifo(t, *path)
		hold, err := linux.HoldFifo(*path)
		if err != nil {
			t.Fatal(err)
		}
		b.keeper = append(b.keeper, hold)
		if b.app[i], err = linux.InheritFifo(*path, i > 0); err != nil {
			t.Fatal(err)
		}
	}
	for name, path := range map[string]*string{"in": &b.asked.Stdin, "out": &b.asked.Stdout, "err": &b.asked.Stderr} {
		*path = filepath.Join(dir, name)
		mustFifo(t, *path)
	}
	t.Cleanup(func() {
		b.exit()
		b.forget()
	})
	return b
}

func mustFifo(t *testing.T, path string) {
	t.Helper()
	if err := linux.MakeFifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
}

// open connects the streams as bind does: the keeper lets go when the shim holds on.
func (b *pipeBed) open(t *testing.T) *streams {
	t.Helper()
	ctx := namespaces.WithNamespace(t.Context(), bedNamespace)
	s, err := openStreams(ctx, "c1", b.asked, b.inst)
	if err != nil {
		t.Fatal(err)
	}
	b.forget()
	t.Cleanup(func() { s.close(context.Background()) })
	return s
}

func (b *pipeBed) forget() {
	for _, f := range b.keeper {
		_ = f.Close()
	}
	b.keeper = nil
}

// exit is the end of the app: all its ends are closed.
func (b *pipeBed) exit() {
	for _, f := range b.app {
		_ = f.Close() // a test may have closed it
	}
}

func mustClose(t *testing.T, c io.Closer) {
	t.Helper()
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func payload(t *testing.T, size int) []byte {
	t.Helper()
	data := make([]byte, size)
	if _, err := rand.Read(data); err != nil {
		t.Fatal(err)
	}
	return data
}

// readAll reads a client's end until nobody writes any more.
func readAll(t *testing.T, path string) <-chan []byte {
	t.Helper()
	f, err := linux.ReadFifo(path)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan []byte, 1)
	go func() {
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			t.Error(err)
		}
		done <- data
	}()
	return done
}

func TestOutputOfManyMegabytesArrivesWholeAndIsDrainedAtExit(t *testing.T) {
	b := newPipeBed(t)
	early := []byte("written while nobody had the shim's end open\n")
	if _, err := b.app[1].Write(early); err != nil {
		t.Fatal(err)
	}
	// The client's hold lets its reader outlive the moment before the shim has opened.
	hold, err := linux.HoldFifo(b.asked.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	out := readAll(t, b.asked.Stdout)
	s := b.open(t)
	data := payload(t, 9<<20)
	if _, err := b.app[1].Write(data); err != nil {
		t.Fatal(err)
	}
	b.exit()
	began := time.Now()
	s.drain(t.Context(), 10*time.Second)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("drain took %v", took)
	}
	// The client sees the end of the output before any delete.
	mustClose(t, hold)
	if got := <-out; !bytes.Equal(got, append(early, data...)) {
		t.Errorf("got %d bytes, want %d, or they differ", len(got), len(early)+len(data))
	}
}

func TestClientThatGoesAwayAndComesBackCostsNothing(t *testing.T) {
	b := newPipeBed(t)
	s := b.open(t)
	client, err := linux.ReadFifo(b.asked.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	write := func(line string) {
		t.Helper()
		if _, err := io.WriteString(b.app[1], line); err != nil {
			t.Fatal(err)
		}
	}
	read := func(f *os.File, want string) {
		t.Helper()
		got := make([]byte, len(want))
		if err := f.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(f, got); err != nil || string(got) != want {
			t.Fatalf("read %q, %v, want %q", got, err, want)
		}
	}
	write("one\n")
	read(client, "one\n")
	mustClose(t, client)
	write("two\n")
	again, err := linux.ReadFifo(b.asked.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer again.Close()
	write("three\n")
	read(again, "two\nthree\n")
	b.exit()
	s.drain(t.Context(), 5*time.Second)
}

func TestInputArrivesAndEndsWithCloseIO(t *testing.T) {
	b := newPipeBed(t)
	s := b.open(t)
	client, err := linux.WriteFifo(b.asked.Stdin)
	for err != nil { // The shim's end is opened in the background.
		<-time.After(time.Millisecond)
		client, err = linux.WriteFifo(b.asked.Stdin)
	}
	data := payload(t, 1<<20)
	go func() {
		if _, err := client.Write(data); err != nil {
			t.Error(err)
		}
		mustClose(t, client)
		if err := s.closeStdin(); err != nil {
			t.Error(err)
		}
	}()
	got, err := io.ReadAll(b.app[0])
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("app read %d bytes, %v, want %d", len(got), err, len(data))
	}
}

func TestInputStaysOpenWhenTheClientGoesAway(t *testing.T) {
	b := newPipeBed(t)
	s := b.open(t)
	client, err := os.OpenFile(b.asked.Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, "a\n"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 2)
	if _, err := io.ReadFull(b.app[0], got); err != nil {
		t.Fatal(err)
	}
	mustClose(t, client)
	ended := make(chan error, 1)
	go func() {
		_, err := b.app[0].Read(got)
		ended <- err
	}()
	select {
	case err := <-ended:
		t.Fatalf("input ended without CloseIO: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := s.closeStdin(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, io.EOF) {
		t.Errorf("after CloseIO: %v, want end of input", err)
	}
}

func TestOneOutputForBothEndsWithTheLater(t *testing.T) {
	b := newPipeBed(t)
	b.asked.Stderr = b.asked.Stdout
	hold, err := linux.HoldFifo(b.asked.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	out := readAll(t, b.asked.Stdout)
	s := b.open(t)
	mustClose(t, hold)
	mustClose(t, b.app[1])
	if _, err := io.WriteString(b.app[2], "later\n"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, b.app[2])
	s.drain(t.Context(), 5*time.Second)
	if got := <-out; string(got) != "later\n" {
		t.Errorf("client read %q", got)
	}
}

func TestNoInputAskedForIsTheEndOfInput(t *testing.T) {
	b := newPipeBed(t)
	b.asked.Stdin = ""
	b.open(t)
	if got, err := io.ReadAll(b.app[0]); err != nil || len(got) > 0 {
		t.Errorf("app read %q, %v, want the end of input", got, err)
	}
}

func TestOutputNobodyAskedForIsThrownAway(t *testing.T) {
	b := newPipeBed(t)
	b.asked = stdio.Stdio{}
	s := b.open(t)
	if _, err := b.app[1].Write(payload(t, 1<<20)); err != nil {
		t.Fatal(err)
	}
	b.exit()
	s.drain(t.Context(), 5*time.Second)
}

func TestOutputGoesIntoAFile(t *testing.T) {
	b := newPipeBed(t)
	path := filepath.Join(b.dir, "new", "app.log")
	b.asked = stdio.Stdio{Stdout: "file://" + path, Stderr: "file://" + path}
	s := b.open(t)
	for _, f := range b.app[1:] {
		if _, err := io.WriteString(f, "line\n"); err != nil {
			t.Fatal(err)
		}
	}
	b.exit()
	s.drain(t.Context(), 5*time.Second)
	if got, err := os.ReadFile(path); err != nil || string(got) != "line\nline\n" {
		t.Errorf("log has %q, %v", got, err)
	}
}

func TestOutputGoesToALoggingProgram(t *testing.T) {
	b := newPipeBed(t)
	logger := filepath.Join(b.dir, "logger")
	log := filepath.Join(b.dir, "log")
	// By the protocol: stdout on 3, stderr on 4, ready by closing 5.
	script := "#!/bin/sh\nexec 5>&-\ntrap '' TERM\ncat <&3 >" + log + "\n"
	if err := os.WriteFile(logger, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.asked = stdio.Stdio{Stdout: "binary://" + logger, Stderr: "binary://" + logger}
	s := b.open(t)
	data := payload(t, 1<<20)
	if _, err := b.app[1].Write(data); err != nil {
		t.Fatal(err)
	}
	b.exit()
	s.drain(t.Context(), 5*time.Second)
	s.close(t.Context())
	deadline := time.Now().Add(5 * time.Second)
	for {
		got, err := os.ReadFile(log)
		if err == nil && bytes.Equal(got, data) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("log has %d bytes, want %d: %v", len(got), len(data), err)
		}
		<-time.After(5 * time.Millisecond)
	}
}

func TestUnknownSchemeOfOutputIsAnError(t *testing.T) {
	b := newPipeBed(t)
	b.asked.Stdout = "smoke://signal"
	if _, err := openStreams(t.Context(), "c1", b.asked, b.inst); err == nil {
		t.Error("opened")
	}
}

func TestDrainGivesUpOnAClientThatDoesNotRead(t *testing.T) {
	b := newPipeBed(t)
	s := b.open(t)
	go func() { _, _ = b.app[1].Write(payload(t, 1<<20)) }()
	began := time.Now()
	s.drain(t.Context(), 50*time.Millisecond)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("drain took %v, want its limit", took)
	}
}

func TestInstanceWithoutPipesCostsTheClientNoEndOfOutput(t *testing.T) {
	b := newPipeBed(t)
	got := make(chan []byte, 1)
	go func() { // As a client does: its open returns with the first writer, its read with the last.
		client, err := os.Open(b.asked.Stdout)
		if err != nil {
			t.Error(err)
		}
		defer client.Close()
		data, err := io.ReadAll(client)
		if err != nil {
			t.Error(err)
		}
		got <- data
	}()
	<-time.After(20 * time.Millisecond)
	b.inst.Stderr = filepath.Join(b.dir, "gone")
	if _, err := openStreams(t.Context(), "c1", b.asked, b.inst); err == nil {
		t.Fatal("opened")
	}
	next, err := os.OpenFile(b.asked.Stdout, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(next, "cold\n"); err != nil {
		t.Fatal(err)
	}
	mustClose(t, next)
	if data := <-got; string(data) != "cold\n" {
		t.Errorf("client read %q", data)
	}
}
