package seedpool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool/linux"
)

const (
	// requestTimeout bounds how long a launcher may take to say what it wants; requestLimit bounds what it says: an environment, mostly.
	requestTimeout = time.Second
	requestLimit   = 4 << 20
	// assignTimeout is what a shim may take to begin to serve: the launcher starts one itself after 100 ms.
	assignTimeout = 80 * time.Millisecond
	// readyTimeout is what a new shim may take until it is ready; one that hangs is replaced.
	readyTimeout = 5 * time.Second
)

// Shims are the processes `sprout-shim idle` that stand ready, and the socket on which launchers ask for one. An idle shim has its end of a socket as file
// descriptor 3: one line comes when it is ready, one line of parameters goes in, one line comes back, and from then on it is on its own. One that was given away outlives sproutd; one that is
// still idle ends when the socket is closed, and so with sproutd, however that ends.
type Shims struct {
	path   string
	runDir string
	want   int
	// foresee is Pool.Foresee.
	foresee func(namespace, id string) Foreseen

	life  context.Context
	end   context.CancelFunc
	tasks sync.WaitGroup
	// wake tells the refiller that one has been taken or has died.
	wake chan struct{}
	// starts are those that have asked for a shim. A spare will be moved into the cgroup of each.
	starts calm
	moves  linux.MovePrimer

	mu   sync.Mutex
	idle []*idleShim // +checklocks:mu
}

// idleShim is one process that waits. control is closed by whoever takes it off the list.
type idleShim struct {
	cmd     *exec.Cmd
	control net.Conn
	read    *bufio.Reader
	ended   chan struct{}
	// ready, guarded by Shims.mu: it has said so. One that comes up would not answer in time, and a launcher that starts one itself need not wait for that.
	ready bool
}

// NewShims begins to start idle shims. foresee says which of them may begin at once, see Pool.Foresee.
func NewShims(ctx context.Context, c Config, foresee func(namespace, id string) Foreseen) (*Shims, error) {
	s := &Shims{path: c.Shim, runDir: c.RunDir, want: c.IdleShims, foresee: foresee, wake: make(chan struct{}, 1)}
	if s.path == "" {
		own, err := os.Executable()
		if err != nil {
			return nil, fmt.Errorf("find sprout-shim: %w", err)
		}
		s.path = filepath.Join(filepath.Dir(own), "sprout-shim")
	}
	s.life, s.end = context.WithCancel(context.WithoutCancel(ctx))
	s.tasks.Go(func() { s.refill(s.life) })
	return s, nil
}

// Close ends the idle shims and returns when they have ended.
func (s *Shims) Close() {
	s.end()
	s.tasks.Wait()
}

// refill keeps as many idle as are wanted, until ctx ends.
func (s *Shims) refill(ctx context.Context) {
	failures := 0
	for {
		var again <-chan time.Time
		if err := s.fill(ctx); err != nil {
			failures++
			pause := backoff(failures, firstBackoff, time.Minute)
			again = time.After(pause)
			log.G(ctx).WithError(err).WithField("failures", failures).Warn("start idle shim")
		} else {
			failures = 0
		}
		select {
		case <-ctx.Done():
			s.drop()
			return
		case <-again:
		case <-s.wakeUnless(again != nil):
			s.rest(ctx)
		}
	}
}

// rest lets the start that has taken a shim go on alone.
func (s *Shims) rest(ctx context.Context) {
	for wait := s.starts.wait(time.Now()); wait > 0; wait = s.starts.wait(time.Now()) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// wakeUnless is the refiller's signal, and none while it pauses after a failure: a shim that dies at once must not be started in a loop.
func (s *Shims) wakeUnless(paused bool) <-chan struct{} {
	if paused {
		return nil
	}
	return s.wake
}

func (s *Shims) fill(ctx context.Context) error {
	for {
		s.mu.Lock()
		have := len(s.idle)
		s.mu.Unlock()
		if have >= s.want || ctx.Err() != nil {
			return nil
		}
		if err := s.start(); err != nil {
			return err
		}
	}
}

// start starts one idle shim and puts it on the list.
func (s *Shims) start() error {
	ours, theirs, err := linux.StreamPair("shim")
	if err != nil {
		return err
	}
	defer theirs.Close()
	control, err := net.FileConn(ours)
	if err := errors.Join(err, ours.Close()); err != nil {
		return err
	}
	cmd := exec.Command(s.path, "idle")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), RunDirEnv+"="+s.runDir)
	cmd.Stderr = os.Stderr
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return errors.Join(err, control.Close())
	}
	one := &idleShim{cmd: cmd, control: control, read: bufio.NewReader(control), ended: make(chan struct{})}
	s.mu.Lock()
	s.idle = append(s.idle, one)
	s.mu.Unlock()
	go s.await(one)
	// Not one of tasks: a shim that was given away lives as long as its containers.
	go func() {
		err := cmd.Wait()
		if s.take(one) {
			_ = control.Close()
			log.G(s.life).WithError(err).WithField("pid", cmd.Process.Pid).Warn("idle shim ended")
			// Not at once: one that cannot live must not be started in a loop.
			time.AfterFunc(firstBackoff, s.stir)
		}
		close(one.ended)
	}()
	return nil
}

// await waits until a new shim has said that it is ready. One that does not is ended, and so taken off the list.
func (s *Shims) await(one *idleShim) {
	err := one.control.SetReadDeadline(time.Now().Add(readyTimeout))
	if err == nil {
		_, err = one.read.ReadBytes('\n')
	}
	if err != nil {
		_ = one.cmd.Process.Kill()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	one.ready = true
}

// take takes a certain shim off the list.
func (s *Shims) take(one *idleShim) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.idle)
	s.idle = slices.DeleteFunc(s.idle, func(other *idleShim) bool { return other == one })
	return len(s.idle) < n
}

// next takes the shim that is ready and has waited longest; nil: there is none.
func (s *Shims) next() *idleShim {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := slices.IndexFunc(s.idle, func(one *idleShim) bool { return one.ready })
	if n < 0 {
		return nil
	}
	one := s.idle[n]
	s.idle = slices.Delete(s.idle, n, n+1)
	return one
}

func (s *Shims) stir() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// drop ends all that are idle.
func (s *Shims) drop() {
	s.mu.Lock()
	left := s.idle
	s.idle = nil
	s.mu.Unlock()
	for _, one := range left {
		_ = one.control.Close()
		select {
		case <-one.ended:
		case <-time.After(requestTimeout):
			_ = one.cmd.Process.Kill()
			<-one.ended
		}
	}
}

// Serve answers launchers on l until it is closed.
func (s *Shims) Serve(l net.Listener) error {
	for {
		conn, err := l.Accept()
		if err != nil {
			return err
		}
		s.tasks.Go(func() { s.answer(conn) })
	}
}

// answer serves one launcher: one line in, one line out.
func (s *Shims) answer(conn net.Conn) {
	defer conn.Close()
	var reply struct {
		Address string `json:"address,omitempty"`
		Error   string `json:"error,omitempty"`
	}
	one, address, err := s.assign(conn)
	reply.Address = address
	if err != nil {
		reply.Error = err.Error()
	}
	err = json.NewEncoder(conn).Encode(reply)
	if err != nil && one != nil {
		// The launcher has given up on us and starts a shim of its own.
		log.G(s.life).WithError(err).Warn("answer launcher")
		_ = one.cmd.Process.Signal(syscall.SIGTERM)
	}
}

// assign makes an idle shim that of the container that a launcher asks for.
func (s *Shims) assign(conn net.Conn) (*idleShim, string, error) {
	if err := conn.SetDeadline(time.Now().Add(requestTimeout)); err != nil {
		return nil, "", err
	}
	line, err := bufio.NewReader(io.LimitReader(conn, requestLimit)).ReadBytes('\n')
	if err != nil {
		return nil, "", fmt.Errorf("read request: %w", err)
	}
	var request struct {
		Op string `json:"op"`
		ShimParams
	}
	if err := json.Unmarshal(line, &request); err != nil {
		return nil, "", fmt.Errorf("read request: %w", err)
	}
	if request.Op != "assign" || request.Address == "" {
		return nil, "", fmt.Errorf("read request: op %q for address %q: want assign and an address", request.Op, request.Address)
	}
	one := s.next()
	if one == nil {
		return nil, "", errors.New("no shim is idle")
	}
	s.starts.disturb(time.Now())
	s.moves.For(startTime)
	defer s.stir()
	if line, err = s.extend(line, request.ShimParams); err == nil {
		err = one.give(line)
	}
	if err != nil {
		// The launcher must not find a shim that serves already and is about to end.
		_ = one.cmd.Process.Kill()
		<-one.ended
		return nil, "", fmt.Errorf("assign shim: %w", err)
	}
	return one, request.Address, nil
}

// extend adds what the pool foresees to a line of parameters. All else goes on as it came: what the launcher knows and we do not is for the shim.
func (s *Shims) extend(line []byte, p ShimParams) ([]byte, error) {
	foreseen := s.foresee(p.Namespace, p.ID)
	if foreseen == (Foreseen{}) {
		return line, nil
	}
	var fields map[string]any
	if err := json.Unmarshal(line, &fields); err != nil {
		return nil, err
	}
	fields["rung"], fields["upperdir"] = foreseen.Rung, foreseen.Upperdir
	line, err := json.Marshal(fields)
	return append(line, '\n'), err
}

// give hands the shim its parameters and waits until it serves. The control socket is closed either way.
func (o *idleShim) give(line []byte) error {
	defer o.control.Close()
	if err := o.control.SetDeadline(time.Now().Add(assignTimeout)); err != nil {
		return err
	}
	if _, err := o.control.Write(line); err != nil {
		return err
	}
	answer, err := o.read.ReadBytes('\n')
	if err != nil {
		return err
	}
	var said struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(answer, &said); err != nil {
		return err
	}
	if !said.OK {
		return errors.New(said.Error)
	}
	return nil
}
