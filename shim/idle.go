package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/log"

	"github.com/sproutrun/sprout/seedpool"
)

// untidy is how long an idle shim that was given a container lets garbage lie: to collect it takes a core from the start, which makes little of it. It keeps the memory
// that prewarm has used, too: to get it again from the kernel is a fault per page.
const untidy = time.Second

// paramsLimit bounds the line of parameters: the environment is most of it.
const paramsLimit = 4 << 20

// assigned is what an idle shim says: that it is ready for parameters, and what came of them.
type assigned struct {
	Ready bool   `json:"ready,omitempty"`
	OK    bool   `json:"ok,omitempty"`
	Error string `json:"error,omitempty"`
}

// Idle is the life of a shim that sproutd has started before any container needs it. control is a stream socket: {"ready":true} goes out, one line of JSON with
// seedpool.IdleParams comes in, one line goes out, {"ok":true} once the socket accepts, or {"error":"…"} and the shim ends. When control is closed before that the
// shim ends, too.
func Idle(ctx context.Context, control *os.File) error {
	if err := becomeShim(); err != nil {
		return err
	}
	conn, err := net.FileConn(control)
	// Closed at once: no child shall inherit it.
	if err := errors.Join(err, control.Close()); err != nil {
		return fmt.Errorf("take over control socket: %w", err)
	}
	defer conn.Close()
	if err := prewarm(); err != nil {
		log.L.WithError(err).Warn("prewarm idle shim")
	}
	// One that cannot be made now is made when it is needed, or the container starts cold.
	paths := seedpool.PathsFromEnv()
	client, err := seedpool.Dial(ctx, paths.APISocket())
	if err != nil {
		log.L.WithError(err).Warn("connect idle shim to sproutd")
	}
	runtime.GC()
	debug.SetGCPercent(-1)
	if err := reply(conn, assigned{Ready: true}); errors.Is(err, syscall.EPIPE) {
		return nil // sproutd has ended
	} else if err != nil {
		return err
	}
	p, err := readParams(conn)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err != nil {
		return errors.Join(err, reply(conn, assigned{Error: err.Error()}))
	}
	early := lookAhead(p, paths, client)
	l, err := assign(p.ShimParams)
	if err != nil {
		return errors.Join(err, reply(conn, assigned{Error: err.Error()}), early.drop())
	}
	time.AfterFunc(untidy, staySmall)
	// Connections wait in the socket's queue until serve accepts them.
	if err := reply(conn, assigned{OK: true}); err != nil {
		return errors.Join(err, withdraw(l, p.ShimParams), early.drop())
	}
	if err := conn.Close(); err != nil {
		return errors.Join(err, withdraw(l, p.ShimParams), early.drop())
	}
	return serve(ctx, l, p.ShimParams, early)
}

// readParams waits for the line of parameters. io.EOF: there will be none.
func readParams(r io.Reader) (seedpool.IdleParams, error) {
	var p seedpool.IdleParams
	line, err := bufio.NewReader(io.LimitReader(r, paramsLimit)).ReadBytes('\n')
	if len(line) == 0 && err != nil {
		return p, io.EOF
	}
	if err != nil {
		return p, fmt.Errorf("read parameters: %w", err)
	}
	if err := json.Unmarshal(line, &p); err != nil {
		return p, fmt.Errorf("decode parameters: %w", err)
	}
	return p, nil
}

// assign turns this idle process into the shim of p.
func assign(p seedpool.ShimParams) (*net.UnixListener, error) {
	// Before anything is changed: what differs cannot be put right afterwards.
	if err := resemble(p.Launcher); err != nil {
		return nil, err
	}
	if len(p.Env) > 0 {
		os.Clearenv()
	}
	for _, e := range p.Env {
		name, value, _ := strings.Cut(e, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, fmt.Errorf("set environment: %w", err)
		}
	}
	if err := settle(p); err != nil {
		return nil, err
	}
	return listen(p.Address)
}

func reply(w io.Writer, a assigned) error {
	if err := json.NewEncoder(w).Encode(a); err != nil {
		return fmt.Errorf("answer sproutd: %w", err)
	}
	return nil
}
