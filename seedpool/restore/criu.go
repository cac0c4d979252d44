package restore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

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

// Warm fills CRIU's cache in the calling thread's mount namespace, which would cost the first restore 20 ms. It fails when CRIU does not work here.
func (c CRIU) Warm() error {
	if err := show(c.Path); err != nil {
		return err
	}
	out, err := exec.Command(c.Path, "check").CombinedOutput()
	if err != nil {
		return fmt.Errorf("run %s check: %w: %s", c.Path, err, strings.TrimSpace(string(out)))
	}
	return nil
}

const (
	// firstFD is the number that the first inherited file has in CRIU: after the standard streams and the request socket.
	firstFD = 4
	// message bounds one answer of CRIU's, in bytes.
	message = 64 << 10
	// outputDelay bounds how long the end of CRIU's output is waited for once CRIU has ended.
	outputDelay = time.Second
	// logLevel has CRIU log errors and warnings.
	logLevel = 2
)

// logName is CRIU's log in the work directory.
func logName(op string) string { return op + ".log" }

// session is one `criu swrk`: a process that serves one request on a socket.
type session struct {
	cmd    *exec.Cmd
	socket *net.UnixConn
	output bytes.Buffer
	// notify is called for each of CRIU's notifications, while CRIU waits; an error ends the session.
	notify func(script string, pid int) error
	// abort is called when the context of the request ends.
	abort func()
}

// start runs CRIU with files that the request refers to by number, from firstFD on. run starts the command, which may take other ids or another place.
func (c CRIU) start(files []*os.File, attr *syscall.SysProcAttr, run func(*exec.Cmd) error) (*session, error) {
	socket, theirs, err := converse()
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	s := &session{socket: socket}
	s.cmd = exec.Command(c.Path, "swrk", "3")
	s.cmd.ExtraFiles = append([]*os.File{theirs}, files...)
	s.cmd.SysProcAttr = attr
	s.cmd.Stdout, s.cmd.Stderr = &s.output, &s.output
	// The restored processes may inherit the pipe of the output and must not keep us.
	s.cmd.WaitDelay = outputDelay
	if err := run(s.cmd); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", c.Path, err), socket.Close())
	}
	return s, s.watch()
}

// converse makes the two ends of a conversation: ours, of which one direction can be closed, and CRIU's.
func converse() (ours *net.UnixConn, theirs *os.File, err error) {
	file, theirs, err := linux.SeqpacketPair("criu")
	if err != nil {
		return nil, nil, err
	}
	conn, err := net.FileConn(file)
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return conn.(*net.UnixConn), theirs, nil
}

// watch ends the conversation when CRIU dies: its half-made tasks hold the other end of the socket, too. What it has said before can still be read.
func (s *session) watch() error {
	p, err := linux.OpenPidfd(s.cmd.Process.Pid)
	if err != nil {
		return err
	}
	go func() {
		_ = p.Wait(context.Background())
		_ = p.Close()
		_ = s.socket.CloseRead()
	}()
	return nil
}

// request sends one request and serves CRIU's notifications until the answer comes. When ctx ends the error is its, whatever came of the request.
func (s *session) request(ctx context.Context, kind rpc.CriuReqType, opts *rpc.CriuOpts) (*rpc.CriuResp, error) {
	stop := context.AfterFunc(ctx, s.abort)
	defer stop()
	resp, err := s.talk(&rpc.CriuReq{Type: &kind, Opts: opts})
	if ctx.Err() != nil {
		return nil, errors.Join(ctx.Err(), err)
	}
	return resp, err
}

func (s *session) talk(req *rpc.CriuReq) (*rpc.CriuResp, error) {
	if err := s.send(req); err != nil {
		return nil, err
	}
	for {
		resp, err := s.receive()
		if err != nil {
			return nil, err
		}
		if resp.GetType() != rpc.CriuReqType_NOTIFY {
			if !resp.GetSuccess() {
				return nil, refusal(resp)
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
		return fmt.Errorf("send request: %w", err)
	}
	return nil
}

func (s *session) receive() (*rpc.CriuResp, error) {
	buf := make([]byte, message)
	n, err := s.socket.Read(buf)
	if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || err == nil && n == 0 {
		return nil, errEnded
	}
	if err != nil {
		return nil, fmt.Errorf("read answer: %w", err)
	}
	resp := new(rpc.CriuResp)
	if err := proto.Unmarshal(buf[:n], resp); err != nil {
		return nil, fmt.Errorf("decode answer: %w", err)
	}
	return resp, nil
}

// end closes the socket, at which CRIU ends, and waits for it.
func (s *session) end() {
	_ = s.socket.Close()
	_ = s.cmd.Wait()
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
