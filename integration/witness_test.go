package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/sproutrun/sprout/integration/stack"
)

// witnessed is an app of one process that does what it is told on its standard input or by a signal, and says what reaches it. It has no handler for SIGTERM.
const witnessed = `$| = 1; $SIG{TERM} = "IGNORE";
$SIG{USR1} = sub { print "USR1\n" }; $SIG{HUP} = sub { print "HUP\n" };
sub burst { print map { sprintf "%015d\n", $_ } 1 .. 524288 }
$SIG{USR2} = sub { burst(); exit 0 };
print "ready\n";
while (<STDIN>) {
  chomp; my ($verb, $what) = split / /, $_, 2;
  print "$what\n" if $verb eq "say";
  print STDERR "$what\n" if $verb eq "complain";
  burst() if $verb eq "burst";
  exit $what if $verb eq "exit";
  unpack "p", pack "Q", 1 if $verb eq "crash";
  if ($verb eq "eat") { my @all; push @all, "x" x 1048576 . @all while 1 }
}
sleep 1000 while 1;`

// burst is what it prints when it is told to, 8 MiB.
var burst = sync.OnceValue(func() []byte {
	var b bytes.Buffer
	for n := range 1 << 19 {
		fmt.Fprintf(&b, "%015d\n", n+1)
	}
	return b.Bytes()
})

// column is a way to start the witness: one of those in which a container is woken, or cold.
type column struct {
	wake
	s *stack.Stack
}

// columns are cold, and each way to be woken.
var columns = append([]wake{{"cold", "cold", 0, false}}, wakes...)

// witnesses makes a column ready for so many containers.
func (w wake) witnesses(t *testing.T, containers int) column {
	t.Helper()
	s := house
	if w.clones {
		s = forking(t)
	}
	if w.rung == "cold" {
		return column{w, s}
	}
	seed := baked(t, s, "witness", "tiny-demo", "--ready", "log=^ready$", "--", "perl", "-e", witnessed)
	if w.rung == "fork" {
		setPool(t, s, seed, 1) // so that the template stands
	}
	setPool(t, s, seed, min(w.spares, 1)*containers)
	return column{w, s}
}

// create makes a container of the witness, with its streams.
func (c column) create(t *testing.T, name string, streams cio.Creator, opts ...oci.SpecOpts) containerd.Task {
	t.Helper()
	opts = append([]oci.SpecOpts{oci.WithProcessArgs("perl", "-e", witnessed)}, opts...)
	if c.rung == "cold" {
		opts = append(opts, oci.WithEnv([]string{"IN_NO_SEED=1"}))
	}
	return create(t, c.s, name+"-"+c.name, "tiny-demo", streams, opts...)
}

// start starts a task that create has made, and makes sure that it went by the column's rung. The channel tells its end.
func (c column) start(t *testing.T, task containerd.Task) <-chan containerd.ExitStatus {
	t.Helper()
	ctx := c.s.Context(t.Context())
	exit, err := task.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := task.Start(ctx); err != nil {
		t.Fatal(err)
	}
	wantRung(t, c.s, task.ID(), c.rung)
	return exit
}

// transcript is what was read from a stream.
type transcript struct {
	mu   sync.Mutex
	data []byte
	more chan struct{}
}

func (w *transcript) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.data = append(w.data, p...)
	select {
	case w.more <- struct{}{}:
	default:
	}
	return len(p), nil
}

// has says whether a text has come that was not taken yet.
func (w *transcript) has(text string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return bytes.Contains(w.data, []byte(text))
}

// take waits for a text, and takes all up to it out of the transcript.
func (w *transcript) take(t *testing.T, text string) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		w.mu.Lock()
		at := bytes.Index(w.data, []byte(text))
		if at >= 0 {
			w.data = w.data[at+len(text):]
		}
		got := string(w.data[:min(len(w.data), 200)])
		w.mu.Unlock()
		if at >= 0 {
			return
		}
		select {
		case <-w.more:
		case <-deadline:
			t.Fatalf("%q did not come; there is %q", text, got)
		}
	}
}

// console is the client's ends of a task's named pipes, which it may let go of and take again.
type console struct {
	stdin    io.WriteCloser
	out, err *transcript
	direct   *cio.DirectIO
}

// attach opens the named pipes of a task.
func (c *console) attach(fifos *cio.FIFOSet) (cio.IO, error) {
	direct, err := cio.NewDirectIO(context.Background(), fifos)
	if err != nil {
		return nil, err
	}
	c.direct, c.stdin = direct, direct.Stdin
	c.out, c.err = &transcript{more: make(chan struct{}, 1)}, &transcript{more: make(chan struct{}, 1)}
	for from, to := range map[io.Reader]*transcript{direct.Stdout: c.out, direct.Stderr: c.err} {
		go func() { _, _ = io.Copy(to, from) }() // ends when either side has closed it
	}
	return direct, nil
}

// creator makes the named pipes below a directory.
func (c *console) creator(dir string) cio.Creator {
	return func(id string) (cio.IO, error) {
		fifos, err := cio.NewFIFOSetInDir(dir, id, false)
		if err != nil {
			return nil, err
		}
		return c.attach(fifos)
	}
}

// detach closes the client's ends, as a client does that ends.
func (c *console) detach(t *testing.T) {
	t.Helper()
	for _, end := range []io.Closer{c.direct.Stdin, c.direct.Stdout, c.direct.Stderr} {
		if err := end.Close(); err != nil {
			t.Error(err)
		}
	}
}

func (c *console) tell(t *testing.T, words ...string) {
	t.Helper()
	if _, err := io.WriteString(c.stdin, strings.Join(words, " ")+"\n"); err != nil {
		t.Fatal(err)
	}
}

// answers makes sure that the app reads its input and that what it prints arrives.
func (c *console) answers(t *testing.T, word string) {
	t.Helper()
	c.tell(t, "say", word)
	c.out.take(t, word+"\n")
}
