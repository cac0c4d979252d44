package stack

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/errdefs"
)

// Ref is the reference of one of the demo images.
func Ref(name string) string { return "docker.io/library/" + name + ":latest" }

// Import loads demo images and unpacks each for sprout's snapshotter.
func (s *Stack) Import(ctx context.Context, names ...string) error {
	return s.ImportFor(ctx, []string{Snapshotter}, names...)
}

// ImportFor loads demo images and unpacks each for the snapshotters.
func (s *Stack) ImportFor(ctx context.Context, snapshotters []string, names ...string) error {
	ctx = s.Context(ctx)
	for _, name := range names {
		file, err := os.Open(filepath.Join(s.out, "images", name+".tar"))
		if err != nil {
			return fmt.Errorf("open image (run `make images` first?): %w", err)
		}
		_, err = s.Client.Import(ctx, file)
		_ = file.Close()
		if err != nil {
			return fmt.Errorf("import image %s: %w", name, err)
		}
		image, err := s.Client.GetImage(ctx, Ref(name))
		if err != nil {
			return err
		}
		for _, snapshotter := range snapshotters {
			if err := image.Unpack(ctx, snapshotter); err != nil {
				return fmt.Errorf("unpack image %s for %s: %w", name, snapshotter, err)
			}
		}
	}
	return nil
}

// RemoveAll kills and deletes every container of the stack's namespace.
func (s *Stack) RemoveAll(ctx context.Context) error {
	ctx = s.Context(ctx)
	list, err := s.Client.Containers(ctx)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	var errs []error
	for _, c := range list {
		errs = append(errs, s.Remove(ctx, c))
	}
	return errors.Join(errs...)
}

// Remove kills a container's task, waits for its end and deletes both.
func (s *Stack) Remove(ctx context.Context, c containerd.Container) error {
	// With its streams loaded, the deletion also removes the directory of named pipes that ctr has made for them below /run/containerd.
	task, err := c.Task(ctx, cio.Load)
	if err == nil {
		if _, err := task.Delete(ctx, killed); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("delete task %s: %w", c.ID(), err)
		}
	} else if !errdefs.IsNotFound(err) {
		return fmt.Errorf("load task %s: %w", c.ID(), err)
	}
	if err := c.Delete(ctx, containerd.WithSnapshotCleanup); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("delete container %s: %w", c.ID(), err)
	}
	return nil
}

// killed ends the process at once and waits for it, so that the task can be deleted.
func killed(ctx context.Context, p containerd.Process) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	exit, err := p.Wait(ctx)
	if err != nil {
		return err
	}
	if err := p.Kill(ctx, syscall.SIGKILL, containerd.WithKillAll); err != nil && !errdefs.IsNotFound(err) && !errdefs.IsFailedPrecondition(err) {
		return err
	}
	select {
	case <-exit:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for %s: %w", p.ID(), ctx.Err())
	}
}

// retire drops the pools and seeds, so that keepers end before sproutd does.
func (s *Stack) retire(ctx context.Context) error {
	select {
	case <-s.sproutdDone():
		return nil
	default:
	}
	if _, err := s.Sprout(ctx, "seed", "rm", "--all"); err != nil {
		return err
	}
	return nil
}

func (s *Stack) sproutdDone() <-chan struct{} {
	if s.sproutd != nil {
		return s.sproutd.done
	}
	done := make(chan struct{})
	close(done)
	return done
}

// Explain is what sprout says of a start. The record is written a moment after Start has returned, so this asks for up to five seconds.
func (s *Stack) Explain(id string) (string, error) {
	for deadline := time.Now().Add(5 * time.Second); ; {
		out, err := s.Sprout(context.Background(), "explain", id)
		if err == nil || time.Now().After(deadline) {
			return out, err
		}
	}
}
