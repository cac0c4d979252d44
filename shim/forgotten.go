package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"syscall"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/sproutrun/sprout/seedpool"
)

// addressFileName is the file in the bundle of a shim's first container from which Cleanup knows where the shim serves. containerd notes that too, but one that is
// killed between the launcher's answer and its note forgets the shim, which would wait for a request for ever.
const addressFileName = "sprout.address"

// noteAddress writes where this shim serves. Without it Cleanup finds no shim that was forgotten.
func noteAddress(p seedpool.ShimParams) {
	if err := os.WriteFile(filepath.Join(p.Bundle, addressFileName), []byte(p.Address), 0o600); err != nil {
		log.L.WithError(err).Warn("note address of shim")
	}
}

// endForgotten ends the shim that was started for a container, if it lives and has no task, and waits until it has gone. The socket of a dead one is removed.
func endForgotten(ctx context.Context, bundle, id string) error {
	address, err := os.ReadFile(filepath.Join(bundle, addressFileName))
	if errors.Is(err, os.ErrNotExist) {
		return nil // the pod's shim serves it
	}
	if err != nil {
		return fmt.Errorf("end forgotten shim: %w", err)
	}
	conn, err := net.Dial("unix", socketPath(string(address)))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil // it has ended, as it should
	case errors.Is(err, syscall.ECONNREFUSED):
		return os.Remove(socketPath(string(address)))
	case err != nil:
		return fmt.Errorf("end forgotten shim: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, leftoverTimeout)
	defer cancel()
	client := ttrpc.NewClient(conn)
	defer client.Close()
	tasks := taskAPI.NewTTRPCTaskClient(client)
	if _, err := tasks.Shutdown(ctx, &taskAPI.ShutdownRequest{ID: id}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
		return fmt.Errorf("end forgotten shim: %w", err)
	}
	// One that has a task goes on, and has the connection as long as that.
	if err := client.UserOnCloseWait(ctx); err != nil && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("end forgotten shim: %w", err)
	}
	return nil
}
