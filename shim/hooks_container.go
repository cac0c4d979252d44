package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	runc "github.com/containerd/go-runc"
	"github.com/opencontainers/runc/libcontainer"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// runHooksInContainer runs startContainer hooks: found and executed in the container, as its user, with its capabilities and filters.
// `runc exec` gives a process exactly these. It would hang, though, in the container's frozen cgroup; so runc is shown a second state
// of the same container, under a root of its own, whose v2 cgroup stands beside the frozen one.
func (t *wokenTask) runHooksInContainer(ctx context.Context, hooks []specs.Hook) (err error) {
	beside := linux.Cgroup{Path: t.cgroup.Path + "-hooks"}
	root := filepath.Join(t.bundle, "work", "hooks")
	defer func() {
		err = errors.Join(err, removeCgroup(context.WithoutCancel(ctx), beside), os.RemoveAll(root))
	}()
	if err := beside.Create(); err != nil {
		return err
	}
	if err := t.copyState(root, beside); err != nil {
		return err
	}
	runtime := *t.runtime
	runtime.Root = root
	state := t.ociState(specs.StateCreated)
	state.Pid = 1
	stdin, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if err := t.execHook(ctx, &runtime, h, stdin); err != nil {
			return fmt.Errorf("run hook %s in container: %w", h.Path, err)
		}
	}
	return nil
}

// copyState writes runc's state of the task once more, with another v2 cgroup.
func (t *wokenTask) copyState(root string, beside linux.Cgroup) error {
	data, err := os.ReadFile(filepath.Join(t.runtime.Root, t.id, "state.json"))
	if err != nil {
		return err
	}
	var state libcontainer.State
	if err := json.Unmarshal(data, &state); err != nil {
		return err
	}
	unified, err := linux.UnifiedRoot()
	if err != nil {
		return err
	}
	state.CgroupPaths[""] = filepath.Join(unified, beside.Path)
	return writeRuncState(root, &state)
}

func (t *wokenTask) execHook(ctx context.Context, runtime *runc.Runc, h specs.Hook, stdin []byte) error {
	p := *t.spec.Process
	p.Terminal = false
	p.Args = []string{h.Path}
	if len(h.Args) > 1 {
		p.Args = append(p.Args, h.Args[1:]...)
	}
	if len(h.Env) > 0 {
		p.Env = h.Env
	}
	ctx, cancel := context.WithTimeout(ctx, timeoutOf(h))
	defer cancel()
	streams := &hookIO{stdin: bytes.NewReader(stdin)}
	if err := runtime.Exec(ctx, t.id, p, &runc.ExecOpts{IO: streams}); err != nil {
		return fmt.Errorf("%w: %s", err, lastBytes(streams.output.Bytes(), hookOutput))
	}
	return nil
}

// hookIO is the standard streams of a hook, as go-runc wants them.
type hookIO struct {
	stdin  io.Reader
	output bytes.Buffer
}

func (*hookIO) Close() error          { return nil }
func (*hookIO) Stdin() io.WriteCloser { return nil }
func (*hookIO) Stdout() io.ReadCloser { return nil }
func (*hookIO) Stderr() io.ReadCloser { return nil }

// Set implements runc.IO.
func (h *hookIO) Set(cmd *exec.Cmd) {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = h.stdin, &h.output, &h.output
}
