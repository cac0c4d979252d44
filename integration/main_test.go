package integration

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sproutrun/sprout/integration/stack"
)

// house is the stack that most tests share; those that kill its daemons start one of their own.
var house *stack.Stack

func TestMain(m *testing.M) {
	if door := os.Getenv(knockEnv); door != "" {
		fmt.Print(knock(door))
		os.Exit(0)
	}
	if asked := os.Getenv(hookEnv); asked != "" {
		if err := runHook(asked); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	// What a container ignores is what its shim does, and that of a cold one is started by another daemon than runc's: under nohup they would differ.
	if signal.Ignored(syscall.SIGHUP) {
		signal.Notify(make(chan os.Signal, 1), syscall.SIGHUP)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) (code int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	s, err := stack.Start(ctx, stack.Options{Out: outDir(), Config: stack.Restoring})
	if err == nil {
		house = s
		defer func() {
			if err := s.Close(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				code = 1
			}
		}()
		err = s.Import(ctx, "tiny-demo", "python-demo")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "integration tests need root and what `make tools images build` makes:", err)
		return 1
	}
	defer func() {
		if err := clonery.close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}()
	return m.Run()
}

// clonery is the stack that clones instances, for the tests that want one; the first starts it.
var clonery lazyStack

type lazyStack struct {
	once sync.Once
	s    *stack.Stack
	err  error
}

func (l *lazyStack) start() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if l.s, l.err = stack.Start(ctx, stack.Options{Out: outDir(), Config: stack.Cloning}); l.err == nil {
		l.err = l.s.Import(ctx, "tiny-demo", "python-demo")
	}
}

func (l *lazyStack) close() error {
	if l.s == nil {
		return nil
	}
	return l.s.Close()
}

func forking(t *testing.T) *stack.Stack {
	t.Helper()
	clonery.once.Do(clonery.start)
	if clonery.err != nil {
		t.Fatal(clonery.err)
	}
	return clonery.s
}

// outDir is where the built binaries and images are.
func outDir() string {
	if dir := os.Getenv("SPROUT_OUT"); dir != "" {
		return dir
	}
	dir, err := filepath.Abs("../_out")
	if err != nil {
		panic(err)
	}
	return dir
}

// ownStack starts a stack that clones nothing for one test and closes it with it: a leak that Close finds fails the test.
func ownStack(t *testing.T, images ...string) *stack.Stack {
	t.Helper()
	return configuredStack(t, stack.Restoring, images...)
}

// configuredStack is ownStack with lines for sproutd's configuration.
func configuredStack(t *testing.T, config string, images ...string) *stack.Stack {
	t.Helper()
	return startStack(t, stack.Options{Config: config}, images...)
}

// startStack is ownStack with options.
func startStack(t *testing.T, o stack.Options, images ...string) *stack.Stack {
	t.Helper()
	ctx := t.Context()
	o.Out = outDir()
	s, err := stack.Start(ctx, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(s.Logs())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := s.Import(ctx, images...); err != nil {
		t.Fatal(err)
	}
	return s
}

// bakes remembers the seeds of the shared stack: each is baked by the first test that wants it.
var bakes sync.Map

// baked makes a seed of a demo image once and returns its name.
func baked(t *testing.T, s *stack.Stack, name, image string, args ...string) string {
	t.Helper()
	once, _ := bakes.LoadOrStore(s.Dir+name, sync.OnceValue(func() error {
		_, err := s.Sprout(context.WithoutCancel(t.Context()), append([]string{"seed", "bake", "--mode", "clone", "--name", name, "--image", stack.Ref(image)}, args...)...)
		return err
	}))
	if err := once.(func() error)(); err != nil {
		t.Fatal(err)
	}
	return name
}

// bakedPython is the seed that most tests wake: an HTTP server that answers questions about itself.
func bakedPython(t *testing.T, s *stack.Stack) string {
	t.Helper()
	return baked(t, s, "python", "python-demo", "--ready", "http://:8080/", "--warmup", "20", "--late-env", "HOSTNAME")
}

// setPool waits until a pool has as many ready spares.
func setPool(t *testing.T, s *stack.Stack, seed string, spares int) {
	t.Helper()
	if _, err := s.Sprout(t.Context(), "pool", "set", seed, "--spares", fmt.Sprint(spares), "--wait"); err != nil {
		t.Fatal(err)
	}
}

// explain returns what sprout says of a start.
func explain(t *testing.T, s *stack.Stack, id string) string {
	t.Helper()
	out, err := s.Explain(id)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// wantRung fails unless the container was started by the rung, and by the way prints why it was not.
func wantRung(t *testing.T, s *stack.Stack, id, rung string) string {
	t.Helper()
	out := explain(t, s, id)
	if !strings.Contains(out, "rung "+rung+",") {
		t.Fatalf("%s was not started by rung %s:\n%s", id, rung, out)
	}
	return out
}
