package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/checkpoint-restore/go-criu/v7/rpc"
	"google.golang.org/protobuf/proto"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// CRIU is the program.
type CRIU struct {
	Path string
}

// Version is what the program says of itself, "4.2.1".
func (c CRIU) Version(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, c.Path, "--version").Output()
	if err != nil {
		return "", fmt.Errorf("ask %s for its version: %w", c.Path, err)
	}
	for _, line := range strings.Split(string(out), "\n") {
		if version, ok := strings.CutPrefix(line, "Version: "); ok {
			return strings.TrimSpace(version), nil
		}
	}
	return "", fmt.Errorf("ask %s for its version: it says %q", c.Path, out)
}

// firstFD is the number that the first inherited file has in CRIU: after the standard streams and the request socket.
const firstFD = 4

// message bounds one answer of CRIU's.
const message = 64 << 10

// session is one `criu swrk`: a process that serves one request on a socket.
type session struct {
	cmd    *exec.Cmd
	socket *os.File
	output bytes.Buffer
	// notify is called for each of CRIU's notifications; an error makes CRIU give up.
	notify func(script string, pid int) error
}

// start runs CRIU with files that the request refers to by number, from firstFD on. A process of CRIU's is started by run, which may put it elsewhere.
func (c CRIU) start(files []*os.File, attr *syscall.SysProcAttr, run func(*exec.Cmd) error) (*session, error) {
	ours, theirs, err := linux.SeqpacketPair("criu")
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s := &session{socket: ours}
	s.cmd = exec.Command(c.Path, "swrk", "3")
	s.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	s.cmd.SysProcAttr = attr
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	if err := run(s.cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.Path, err), ours.Close())
	}
	return s, nil
}

// request sends one request and serves CRIU's notifications until the answer comes. A context that ends kills CRIU.
func (s *session) request(ctx context.Context, kind rpc.CriuReqType, opts *rpc.CriuOpts) (*rpc.CriuResp, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.cmd.Process.Kill() })
	defer stop()
	if err := s.send(&rpc.CriuReq{Type: &kind, Opts: opts}); err != nil {
		return nil, err
	}
	for {
		resp, err := s.receive()
		if err != nil {
			return nil, errors.Join(ctx.Err(), err)
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			if !resp.GetSuccess() {
				return nil, fmt.Errorf("criu answers: %s (errno %d)", orNothing(resp.GetCrErrmsg()), resp.GetCrErrno())
			}
			return resp, nil
		}
		failed := s.notify(resp.GetNotify().GetScript(), int(resp.GetNotify().GetPid()))
		answer := &rpc.CriuReq{Type: rpc.CriuReqType_NOTIFY.Enum(), NotifySuccess: proto.Bool(failed == nil)}
		if err := s.send(answer); err != nil || failed != nil {
			return nil, errors.Join(failed, err)
		}
	}
}

func (s *session) send(req *rpc.CriuReq) error {
	data, err := proto.Marshal(req)
	if err != nil {
		return fmt.Errorf("encode request: %w", err)
	}
	if _, err := s.socket.Write(data); err != nil {
		return fmt.Errorf("send request to criu: %w", err)
	}
	return nil
}

func (s *session) receive() (*rpc.CriuResp, error) {
	buf := make([]byte, message)
	n, err := s.socket.Read(buf)
	if errors.Is(err, io.EOF) || n == 0 {
		return nil, errors.New("criu ended without an answer")
	}
	if err != nil {
		return nil, fmt.Errorf("read answer of criu: %w", err)
	}
	resp := new(rpc.CriuResp)
	if err := proto.Unmarshal(buf[:n], resp); err != nil {
		return nil, fmt.Errorf("decode answer of criu: %w", err)
	}
	return resp, nil
}

// end closes the socket, at which CRIU ends, and waits for it.
func (s *session) end() {
	_ = s.socket.Close()
	_ = s.cmd.Wait()
}

func orNothing(s string) string {
	if s == "" {
		return "no reason given"
	}
	return s
}

// logLines is how many of the last lines of CRIU's log an error carries.
const logLines = 20

// Error is a dump or restore that failed, with what CRIU wrote last.
type Error struct {
	// Op is dump or restore.
	Op string
	// Log holds the last lines of CRIU's log, oldest first; empty when it wrote none.
	Log []string
	Err error
}

func (e *Error) Error() string {
	text := e.Op + " with criu: " + e.Err.Error()
	for i := len(e.Log) - 1; i >= 0; i-- {
		// The first error from the end is what the reader wants; the rest is in Log.
		if strings.Contains(e.Log[i], "Error (") {
			return text + ": " + strings.TrimSpace(e.Log[i])
		}
	}
	return text
}

func (e *Error) Unwrap() error { return e.Err }

// newError adds the end of CRIU's log, or of what it printed when it did not get as far as to open one.
func newError(op, log string, s *session, err error) *Error {
	e := &Error{Op: op, Err: err}
	data, readErr := os.ReadFile(log)
	if readErr != nil && s != nil {
		data = s.output.Bytes()
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) > logLines {
		lines = lines[len(lines)-logLines:]
	}
	if len(lines) > 1 || lines[0] != "" {
		e.Log = lines
	}
	return e
}

// openDirs opens directories that CRIU reaches through this process.
func openDirs(paths ...string) (dirs []*os.File, err error) {
	for _, path := range paths {
		dir, err := os.OpenFile(filepath.Clean(path), os.O_RDONLY|syscall.O_DIRECTORY, 0)
		if err != nil {
			closeAll(dirs)
			return nil, err
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}

// dirFD is how a request names a directory: by its number in the process that made the socket, which is this one (CRIU opens /proc/PEER/fd/N).
func dirFD(dir *os.File) *int32 { return proto.Int32(int32(dir.Fd())) }

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}
