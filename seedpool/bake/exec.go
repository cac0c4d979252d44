package bake

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// execLingers is how long the pipes of a finished exec may stay open: what it left behind must not hold up the bake.
const execLingers = 2 * time.Second

// exec runs a command in the container as the app's user, with its environment, and waits for it. It has ended when exec returns, also when
// ctx ended first: whatever still runs would be dumped with the app.
func (c *container) exec(ctx context.Context, words []string) error {
	pidFile := filepath.Join(c.dir, "exec.pid")
	if err := os.RemoveAll(pidFile); err != nil {
		return err
	}
	args := append([]string{"--root", c.runc.Root, "exec", "--pid-file", pidFile, c.id}, words...)
	cmd := exec.CommandContext(ctx, c.runc.Command, args...)
	var out tail
	cmd.Stdout, cmd.Stderr = &out, &out
	cmd.WaitDelay = execLingers
	cmd.Cancel = func() error {
		if pid, err := readPid(pidFile); err == nil {
			return syscall.Kill(pid, syscall.SIGKILL)
		}
		return cmd.Process.Kill()
	}
	// An exec that outlives us would still write to the directory that CleanupDir removes. The signal comes when the thread ends, hence one
	// that does nothing else.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := linux.Enter(nil, cmd.Run); err != nil {
		if line := out.line(); line != "" {
			return fmt.Errorf("%w: %s", err, line)
		}
		return err
	}
	return nil
}

// tail keeps the end of what is written to it.
type tail struct{ kept []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.kept = append(t.kept, p...)
	if extra := len(t.kept) - keptLineBytes; extra > 0 {
		t.kept = append(t.kept[:0], t.kept[extra:]...)
	}
	return len(p), nil
}

// line gives the last line.
func (t *tail) line() string {
	lines := strings.Split(strings.TrimSpace(string(t.kept)), "\n")
	return printable(lines[len(lines)-1])
}
