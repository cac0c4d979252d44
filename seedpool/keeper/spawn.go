package keeper

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// Config is what a keeper is told on its command line.
type Config struct {
	// Seed is the seed's id, for logs.
	Seed string
	// Socket is where the keeper serves; Socket+".d" is its directory, Socket+".log" its log.
	Socket string
	// CRIU restores; without a path the keeper does not restore: it boots.
	CRIU restore.CRIU
	// Merge has what is booted offer its memory to be merged, Deterministic has each boot lay it out alike.
	Merge, Deterministic bool
}

// boots says whether the instances are booted. Their bind mounts are those that sproutd sees: such a keeper stays in its mount namespace.
func (c Config) boots() bool { return c.CRIU.Path == "" }

// Args is the command line that Main's caller parses back into a Config.
func (c Config) Args() []string {
	args := []string{"keeper", "--seed", c.Seed, "--socket", c.Socket, "--criu", c.CRIU.Path}
	if c.Merge {
		args = append(args, "--merge")
	}
	return args
}

const (
	// readyFD is where a keeper tells the one who started it that it serves, or why it does not.
	readyFD = 3
	// spawnersRoot is the root directory of who has started the keeper: in its mounts, with those that are made later.
	spawnersRoot = "/proc/self/fd/4"
)

// Spawn starts a keeper with the caller's own executable and returns when it serves. The keeper is in a session of its own: it does not end with the caller.
func Spawn(ctx context.Context, c Config) error {
	if err := os.MkdirAll(filepath.Dir(c.Socket), 0o700); err != nil {
		return err
	}
	log, err := os.OpenFile(c.Socket+".log", os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	root, err := os.Open("/")
	if err != nil {
		return errors.Join(err, theirs.Close())
	}
	defer root.Close()
	// The executable's own path, not a name: a keeper is always of the same build as its sproutd.
	cmd := exec.Command("/proc/self/exe", c.Args()...)
	cmd.Args[0] = "sproutd"
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{theirs, root}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if !c.boots() {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWNS
	}
	begin := cmd.Start
	if c.Deterministic {
		begin = func() error { return linux.WithoutASLR(cmd.Start) }
	}
	err = begin()
	_ = theirs.Close()
	if err != nil {
		return fmt.Errorf("start keeper of seed %s: %w", c.Seed, err)
	}
	// It is reaped whenever it ends; until then it is nobody's business.
	go func() { _ = cmd.Wait() }()
	stop := context.AfterFunc(ctx, func() { _ = ours.Close() })
	defer stop()
	word, err := io.ReadAll(ours)
	if err == nil && string(word) == ready {
		return nil
	}
	_ = cmd.Process.Kill()
	if err == nil {
		err = errors.New(orEnded(strings.TrimSpace(string(word)), c.Socket+".log"))
	}
	return fmt.Errorf("start keeper of seed %s: %w", c.Seed, errors.Join(ctx.Err(), err))
}

// ready is what a keeper that serves says.
const ready = "ready"

func orEnded(word, log string) string {
	if word == "" {
		return "it ended without a word, see " + log
	}
	return word
}
