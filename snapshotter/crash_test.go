package snapshotter

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// The process that crashes is this test binary again: it opens the snapshotter, does one step and is killed by kill -9 at a named point.
const (
	envCrashAt = "SPROUT_TEST_CRASH_AT"
	envRoot    = "SPROUT_TEST_ROOT"
	envStep    = "SPROUT_TEST_STEP"
)

func crash(at string) {
	s, err := open(os.Getenv(envRoot), func(point string) {
		if point == at {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	if err == nil {
		step := strings.Fields(os.Getenv(envStep))
		err = steps[step[0]](s, context.Background(), step[1:])
	}
	fmt.Fprintf(os.Stderr, "not killed at %q: %v\n", at, err)
	os.Exit(1)
}

var steps = map[string]func(s *Snapshotter, ctx context.Context, args []string) error{
	"bake": func(s *Snapshotter, ctx context.Context, args []string) error {
		if _, err := s.PrepareBake(ctx, args[0], args[1]); err != nil {
			return err
		}
		return s.CommitSeed(ctx, args[0])
	},
	"spare": func(s *Snapshotter, ctx context.Context, args []string) error {
		_, err := s.PrepareSpare(ctx, args[0], args[1])
		return err
	},
	"adopt": func(s *Snapshotter, ctx context.Context, args []string) error { return s.Adopt(ctx, args[0], args[1]) },
	"over": func(s *Snapshotter, ctx context.Context, args []string) error {
		_, err := s.Over(ctx, args[0], args[1])
		return err
	},
	"renew":        func(s *Snapshotter, ctx context.Context, args []string) error { return s.Renew(ctx, args[0]) },
	"remove-spare": func(s *Snapshotter, ctx context.Context, args []string) error { return s.RemoveSpare(ctx, args[0]) },
	"remove-seed":  func(s *Snapshotter, ctx context.Context, args []string) error { return s.RemoveSeed(ctx, args[0]) },
}

// crashed closes the snapshotter, has another process killed at the point while it does the step, and opens it again.
func (b *bed) crashed(at string, step ...string) {
	b.t.Helper()
	must(b.t, b.Close())
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envCrashAt+"="+at, envRoot+"="+b.root, envStep+"="+strings.Join(step, " "))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		b.t.Fatalf("%v: %s", err, stderr.String())
	}
	b.open(b.root)
}

func TestAnAdoptionThatIsCutIsUndoneOrDone(t *testing.T) {
	const (
		overImage = "after=i1 app/conf=image app/main=image before=i1 dir/a=image dir/b=image etc/passwd=root gone=image"
		overSeed  = "after=i1 app/conf=s1 app/main=image before=i1 cache=s1 dir/new=s1 etc/passwd=root"
	)
	for _, c := range []struct {
		at    string
		spare bool   // the spare is still one, and can be adopted
		seed  string // the label
		cold  string // what the container sees in a mount made later
	}{
		{at: "adopting", spare: true, cold: overSeed},
		{at: "fs moved", cold: overImage},
		{at: "work moved", cold: overImage},
		{at: "adopted", seed: "s1", cold: overSeed},
	} {
		t.Run(c.at, func(t *testing.T) {
			b := newBed(t)
			image, chainID := b.demo("default")
			b.seed("s1", chainID)
			upper := b.container("default/9/c1", image)
			dir := b.spare("s1", "i1")
			b.write(filepath.Join(dir, "before"), "i1")

			b.crashed(c.at, "adopt", "i1", upper)

			_, spares, err := b.List(b.ctx)
			must(t, err)
			want(t, "spare", slices.Contains(spares, "i1"), c.spare)
			info, err := b.Stat(b.ctx, "default/9/c1")
			must(t, err)
			want(t, "seed", info.Labels[LabelSeed], c.seed)
			b.noLeftovers()
			b.write(filepath.Join(dir, "after"), "i1") // the instance itself has not noticed
			if c.spare {
				must(t, b.Adopt(b.ctx, "i1", upper))
			}
			want(t, "upper", tree(t, upper), "after=i1 before=i1")
			b.unmount(dir)
			cold := b.mountKey("default/9/c1")
			want(t, "cold mount", tree(t, cold), c.cold)
			b.write(filepath.Join(cold, "app/main"), "copied up")
			b.unmount(cold)

			must(t, b.Remove(b.ctx, "default/9/c1"))
			must(t, b.RemoveSeed(b.ctx, "s1"))
			want(t, "rows", len(b.rows()), 2)
			b.noLeftovers()
		})
	}
}

func TestABakeThatIsCutIsGoneOrASeed(t *testing.T) {
	for at, rows := range map[string]int{"layer synced": 2, "seed committed": 3} {
		t.Run(at, func(t *testing.T) {
			b := newBed(t)
			_, chainID := b.demo("default")
			b.crashed(at, "bake", "s1", chainID)
			want(t, "rows", len(b.rows()), rows)
			b.noLeftovers()
			seeds, _, err := b.List(b.ctx)
			must(t, err)
			want(t, "seeds", len(seeds), rows-2)
			if len(seeds) == 0 {
				b.seed("s1", chainID)
			}
			must(t, b.RemoveSeed(b.ctx, "s1"))
			b.noLeftovers()
		})
	}
}

func TestStepsThatAreCutLeaveWhatCanBeUsed(t *testing.T) {
	for _, c := range []struct {
		at    string
		step  []string
		check func(b *bed, upper string)
	}{
		{"spare made", []string{"spare", "s1", "i2"}, func(b *bed, _ string) {
			must(b.t, b.RemoveSpare(b.ctx, "i2"))
		}},
		{"over", []string{"over", "s1"}, func(b *bed, upper string) {
			want(b.t, "mount", tree(b.t, b.mountKey("default/9/c1")), seedTree)
		}},
		{"plain", []string{"renew"}, func(b *bed, upper string) {
			want(b.t, "mount", tree(b.t, b.mountKey("default/9/c1")), imageTree)
		}},
		{"row dropped", []string{"remove-spare", "i1"}, func(b *bed, _ string) {
			_, spares, err := b.List(b.ctx)
			must(b.t, err)
			want(b.t, "spares", len(spares), 0)
		}},
		{"seed retired", []string{"remove-seed", "s2"}, func(b *bed, _ string) {
			want(b.t, "rows", slices.Contains(b.rows(), seedKey("s2")), false)
		}},
		{"seed freed", []string{"remove-seed", "s2"}, func(b *bed, _ string) {
			want(b.t, "rows", slices.Contains(b.rows(), seedKey("s2")), false)
		}},
	} {
		t.Run(c.at, func(t *testing.T) {
			b := newBed(t)
			image, chainID := b.demo("default")
			b.seed("s1", chainID)
			b.seed("s2", chainID)
			upper := b.container("default/9/c1", image)
			_, err := b.PrepareSpare(b.ctx, "s1", "i1")
			must(t, err)
			step := c.step
			if step[0] == "over" || step[0] == "renew" {
				step = append(slices.Clone(step), upper)
			}
			b.crashed(c.at, step...)
			c.check(b, upper)
			b.noLeftovers()
		})
	}
}

func TestADirectoryWithoutARowIsNeverUsedAgain(t *testing.T) {
	b := newBed(t)
	image, _ := b.demo("default")
	b.container("default/9/c1", image)
	next := b.dir("4") // the number of the next snapshot, in a transaction that was cut before its commit
	b.write(filepath.Join(next, "fs", "old"), "old")
	b.write(filepath.Join(b.dir("new-123"), "fs", "old"), "old")
	b.reopen()
	b.container("default/10/c2", image)
	want(t, "new container", tree(t, b.mountKey("default/10/c2")), imageTree)
	b.noLeftovers()
}
