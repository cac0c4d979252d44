package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	"github.com/containerd/containerd/v2/pkg/stdio"
	"github.com/containerd/fifo"
	"github.com/containerd/log"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// streams carry the standard streams of a woken task between the named pipes of its instance and what containerd asked for:
// its named pipes, a file (file://), a logging program (binary://) or nothing.
//
// The instance's pipes are opened while the task is frozen and the keeper still holds them, so nothing that it writes can be lost.
// A copy ends when the last writer of its pipe is gone. Containerd's pipes are held open on both ends until then, so that neither a
// restart of containerd nor a client that goes away gives the app an EPIPE or an end of input; and not longer, as a client may wait
// for the end of the output before it asks for the delete.
type streams struct {
	copies  sync.WaitGroup
	closers []io.Closer
	// pipes are the names of the instance's pipes, "pipe:[inode]"; empty: it has none there.
	pipes [3]string

	mu    sync.Mutex
	stdin io.Closer // +checklocks:mu: our hold on containerd's stdin; nil: none, or closed already
}

// openStreams opens both sides and begins to copy.
func openStreams(ctx context.Context, id string, asked stdio.Stdio, inst *api.Instance) (_ *streams, err error) {
	s := &streams{}
	defer func() {
		if err != nil {
			s.close(ctx)
		}
	}()
	// Containerd's pipes come last: once opened they must not be closed before the end, which a client would take for the end of the container.
	app, err := s.openApp(inst)
	if err != nil {
		return nil, err
	}
	out, errOut, err := s.openOutputs(ctx, id, asked)
	if err != nil {
		return nil, err
	}
	if err := s.copyIn(ctx, asked.Stdin, app.stdin); err != nil {
		return nil, err
	}
	return s, errors.Join(s.copyOut(ctx, app.stdout, out), s.copyOut(ctx, app.stderr, errOut))
}

// appPipes are our ends of the instance's pipes; nil: the stream is /dev/null.
type appPipes struct {
	stdin, stdout, stderr *os.File
}

func (s *streams) openApp(inst *api.Instance) (app appPipes, err error) {
	for n, p := range []struct {
		path string
		open func(string) (*os.File, error)
		end  **os.File
	}{{inst.Stdin, linux.WriteFifo, &app.stdin}, {inst.Stdout, linux.ReadFifo, &app.stdout}, {inst.Stderr, linux.ReadFifo, &app.stderr}} {
		if p.path == "" {
			continue
		}
		if *p.end, err = p.open(p.path); err != nil {
			return app, err
		}
		s.closers = append(s.closers, *p.end)
		if name, err := os.Readlink(p.path); err == nil { // else it is a named one
			s.pipes[n] = name
		}
	}
	// The paths lead through the keeper's descriptors. While the instance lives its keeper does: what was opened are its pipes.
	if !linux.Alive(int(inst.Pid), inst.StartTime) {
		return app, fmt.Errorf("open streams of instance %s: %w", inst.Id, os.ErrProcessDone)
	}
	return app, nil
}

// openOutputs opens where the two outputs go.
func (s *streams) openOutputs(ctx context.Context, id string, asked stdio.Stdio) (out, errOut *sink, err error) {
	uri, err := url.Parse(asked.Stdout)
	if err != nil {
		return nil, nil, fmt.Errorf("parse stdout uri: %w", err)
	}
	switch uri.Scheme {
	case "binary", "binary-v2":
		return s.openLogger(ctx, id, uri)
	case "file":
		f, err := openLogFile(uri.Path)
		return s.shared(f, err)
	case "", "fifo":
		f, err := openSink(asked.Stdout)
		if err != nil || asked.Stderr == asked.Stdout {
			return s.shared(f, err)
		}
		out = s.sink(f, 1)
		f, err = openSink(asked.Stderr)
		return out, s.sink(f, 1), err
	}
	return nil, nil, fmt.Errorf("open stdout %s: unknown scheme", asked.Stdout)
}

// openLogger starts the logging program with containerd's own code, which hands the write ends of its pipes to a command. They are
// closed, and the program is told to end, with the streams.
func (s *streams) openLogger(ctx context.Context, id string, uri *url.URL) (out, errOut *sink, err error) {
	logger, err := process.NewBinaryIO(ctx, id, uri)
	if err != nil {
		return nil, nil, fmt.Errorf("start logging program %s: %w", uri.Path, err)
	}
	s.closers = append(s.closers, logger)
	var ends exec.Cmd
	logger.Set(&ends)
	if after, ok := logger.(interface{ CloseAfterStart() error }); ok {
		if err := after.CloseAfterStart(); err != nil {
			return nil, nil, err
		}
	}
	return &sink{Writer: ends.Stdout}, &sink{Writer: ends.Stderr}, nil
}

// sink is where output goes. The last of its users to close it closes the file behind it, if it has one.
type sink struct {
	io.Writer
	file  *os.File
	users atomic.Int32
}

// sink makes the sink of a file with so many users; no file: what is written is thrown away.
func (s *streams) sink(f *os.File, users int32) *sink {
	if f == nil {
		return &sink{Writer: io.Discard}
	}
	k := &sink{Writer: f, file: f}
	k.users.Store(users)
	s.closers = append(s.closers, f)
	return k
}

// shared is one sink for both outputs.
func (s *streams) shared(f *os.File, err error) (*sink, *sink, error) {
	if err != nil {
		return nil, nil, err
	}
	k := s.sink(f, 2)
	return k, k, nil
}

// Close implements io.Closer.
func (k *sink) Close() error {
	if k.users.Add(-1) > 0 || k.file == nil {
		return nil
	}
	return k.file.Close()
}

func openLogFile(path string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
}

// openSink opens one of containerd's named pipes, at both ends, or a plain file. nil: no output is wanted.
func openSink(path string) (*os.File, error) {
	if path == "" {
		return nil, nil
	}
	isPipe, err := fifo.IsFifo(path)
	if err != nil {
		return nil, err
	}
	if isPipe {
		return linux.HoldFifo(path)
	}
	return os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
}

// copyOut copies from a pipe of the instance until its last writer is gone; then nothing that was written is left in it.
func (s *streams) copyOut(ctx context.Context, from *os.File, to *sink) error {
	if from == nil {
		return to.Close()
	}
	s.copies.Go(func() {
		defer to.Close()
		if _, err := io.Copy(to.Writer, from); err != nil && !errors.Is(err, os.ErrClosed) {
			log.G(ctx).WithError(err).WithField("pipe", from.Name()).Warn("copy output of woken task")
			// What cannot be kept is thrown away: an app that nobody reads from would stop.
			_, _ = io.Copy(io.Discard, from)
		}
	})
	return nil
}

// copyIn copies containerd's stdin to the instance and ends it with it. No stdin asked for: the app reads the end of it at once.
func (s *streams) copyIn(ctx context.Context, from string, to *os.File) error {
	if to == nil {
		return nil
	}
	if from == "" {
		return to.Close()
	}
	// Both return at once and connect when the other side does; the second one keeps the pipe open until CloseIO.
	src, err := fifo.OpenFifo(context.WithoutCancel(ctx), from, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.closers = append(s.closers, src)
	hold, err := fifo.OpenFifo(context.WithoutCancel(ctx), from, syscall.O_WRONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.stdin = hold
	s.mu.Unlock()
	// Not one of copies: a task that exits does not wait for somebody to type.
	go func() {
		if _, err := io.Copy(to, src); err != nil && !errors.Is(err, os.ErrClosed) && !errors.Is(err, syscall.EPIPE) {
			log.G(ctx).WithError(err).WithField("pipe", to.Name()).Debug("copy input of woken task")
		}
		_ = to.Close() // closed already when the streams are
	}()
	return nil
}

// closeStdin lets go of containerd's stdin: when its writers have too, the app reads the end of its input, after all that came before.
func (s *streams) closeStdin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stdin == nil {
		return nil
	}
	err := s.stdin.Close()
	s.stdin = nil
	return err
}

// hold opens the app's ends of its pipes, so that they outlive its processes: what is in them is not lost, and nobody reads their end. nil: none of the processes has
// the pipe any more.
func (s *streams) hold(pids []int) (held [3]*os.File, err error) {
	for _, pid := range pids {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		list, err := os.ReadDir(dir)
		if err != nil {
			return held, err
		}
		for _, entry := range list {
			path := filepath.Join(dir, entry.Name())
			link, err := os.Readlink(path)
			if err != nil {
				continue // closed this moment
			}
			for n, name := range s.pipes {
				if name == "" || name != link || held[n] != nil {
					continue
				}
				if held[n], err = linux.HoldFifo(path); err != nil {
					return held, err
				}
			}
		}
	}
	return held, nil
}

// drain waits until everything that the task wrote has been handed on, but not longer than limit: a client may not read.
func (s *streams) drain(ctx context.Context, limit time.Duration) {
	done := make(chan struct{})
	go func() {
		s.copies.Wait()
		close(done)
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
		log.G(ctx).Warn("output of woken task was not read to its end")
	}
}

// close ends every copy and closes all files. Closing twice does nothing.
func (s *streams) close(ctx context.Context) {
	if err := s.closeStdin(); err != nil {
		log.G(ctx).WithError(err).Debug("close stdin of woken task")
	}
	for _, c := range s.closers {
		if err := c.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			log.G(ctx).WithError(err).Debug("close stream of woken task")
		}
	}
	s.closers = nil
}
