package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	runc "github.com/containerd/go-runc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// hookTimeout bounds a hook whose spec names no timeout: a start may wait for it, but not for ever.
const hookTimeout = 5 * time.Minute

// hookOutput is how much of a failed hook's output goes into its error.
const hookOutput = 2048

// ociState is the state of the container that hooks get on their standard input.
func (t *wokenTask) ociState(status specs.ContainerState) specs.State {
	return ociState(t.spec, t.id, t.bundle, int(t.pid()), status)
}

func ociState(spec *specs.Spec, id, bundle string, pid int, status specs.ContainerState) specs.State {
	return specs.State{
		Version:     specs.Version,
		ID:          id,
		Status:      status,
		Pid:         pid,
		Bundle:      bundle,
		Annotations: spec.Annotations,
	}
}

// runHooks runs hooks one after the other in the runtime's namespaces, with the state on standard input. The first that fails ends it.
func runHooks(ctx context.Context, hooks []specs.Hook, state specs.State) error {
	return runHooksBy(ctx, hooks, state, startChild)
}

// runtimeHooks are those that run before the app in the runtime's namespaces.
func runtimeHooks(h *specs.Hooks) []specs.Hook {
	//lint:ignore SA1019 prestart is deprecated and in use
	return append(slices.Clone(h.Prestart), h.CreateRuntime...)
}

// startChild starts a command as a child that the shim's reaper reports: exec.Cmd.Wait alone would lose the exit to it.
func startChild(cmd *exec.Cmd) (chan runc.Exit, error) { return reaper.Default.Start(cmd) }

func runHooksBy(ctx context.Context, hooks []specs.Hook, state specs.State, start func(*exec.Cmd) (chan runc.Exit, error)) error {
	stdin, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, h := range hooks {
		if err := runHook(ctx, h, stdin, start); err != nil {
			return fmt.Errorf("run hook %s: %w", h.Path, err)
		}
	}
	return nil
}

func runHook(ctx context.Context, h specs.Hook, stdin []byte, start func(*exec.Cmd) (chan runc.Exit, error)) error {
	var output bytes.Buffer
	// Not exec.Command: like runc, the path is run as it stands, never searched for.
	cmd := &exec.Cmd{Path: h.Path, Args: h.Args, Env: h.Env, Stdin: bytes.NewReader(stdin), Stdout: &output, Stderr: &output}
	timeout := timeoutOf(h)
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(timeout, time.Until(deadline))
	}
	exits, err := start(cmd)
	if err != nil {
		return err
	}
	status, err := reaper.Default.WaitTimeout(cmd, exits, timeout)
	if err != nil {
		return err
	}
	if status != 0 {
		return fmt.Errorf("exit status %d: %s", status, lastBytes(output.Bytes(), hookOutput))
	}
	return nil
}

func timeoutOf(h specs.Hook) time.Duration {
	if h.Timeout == nil {
		return hookTimeout
	}
	return time.Duration(*h.Timeout) * time.Second
}

func lastBytes(b []byte, n int) string {
	return strings.TrimSpace(string(b[max(0, len(b)-n):]))
}

// runCreateContainerHooks runs hooks as the spec wants createContainer hooks run: found in the runtime's file system, executed in
// the container's namespaces, in which the first process is 1. runc does so before it changes the root to the container's; here that
// is long done, so the hook's process is given the host's root again.
func runCreateContainerHooks(ctx context.Context, hooks []specs.Hook, state specs.State, pid int) error {
	root, err := os.Open("/")
	if err != nil {
		return err
	}
	defer root.Close()
	kinds, err := containerNamespaces(pid)
	if err != nil {
		return err
	}
	defer closeNamespaces(kinds)
	state.Pid = 1
	return runHooksBy(ctx, hooks, state, func(cmd *exec.Cmd) (exits chan runc.Exit, err error) {
		err = linux.Enter(kinds, func() error {
			if err := root.Chdir(); err != nil {
				return err
			}
			cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: "."}
			cmd.Dir = filepath.Join(state.Bundle, "rootfs") // as runc's
			exits, err = startChild(cmd)
			return err
		})
		return exits, err
	})
}

func containerNamespaces(pid int) ([]linux.NS, error) {
	var kinds []linux.NS
	for _, name := range []string{"ipc", "uts", "net", "pid", "cgroup", "mnt"} {
		f, err := linux.NSFile(pid, name)
		if err != nil {
			closeNamespaces(kinds)
			return nil, err
		}
		kinds = append(kinds, linux.NS{File: f})
	}
	return kinds, nil
}

func closeNamespaces(kinds []linux.NS) {
	for _, ns := range kinds {
		_ = ns.File.Close() // nothing was written
	}
}
