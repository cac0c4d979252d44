package integration

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

// isReady finds the phase in what is told of a seed.
var isReady = regexp.MustCompile(`(?m)^phase +ready$`)

// TestASeedOfAnotherCRIUAndAnOlderImageIsBakedAgain changes, while sproutd is away, what a restart cannot overlook.
func TestASeedOfAnotherCRIUAndAnOlderImageIsBakedAgain(t *testing.T) {
	t.Parallel()
	s := ownStack(t, "tiny-demo", "python-demo")
	tag := func(image string) {
		t.Helper()
		if _, err := s.Ctr(t.Context(), "image", "tag", "--force", stack.Ref(image), stack.Ref("moving")); err != nil {
			t.Fatal(err)
		}
	}
	inspect := func() string {
		t.Helper()
		out, err := s.Sprout(t.Context(), "seed", "inspect", "moving")
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	tag("tiny-demo")
	if _, err := s.Sprout(t.Context(), "seed", "bake", "--name", "moving", "--mode", "clone", "--image", stack.Ref("moving"), "--ready", "file=/bin/sh"); err != nil {
		t.Fatal(err)
	}
	setPool(t, s, "moving", 1)
	run(t, s, "old", "moving")
	wantRung(t, s, "old", "thaw")

	kill(t, s.SproutdPID())
	s.WaitSproutd()
	link := filepath.Join(s.Dir, "criu")
	program, err := os.Readlink(link)
	if err == nil {
		err = os.Remove(link)
	}
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = --version ] && echo Version: 99 && exit\nexec %s \"$@\"\n", program)
	// Beside the program, which CRIU's own /tmp shows if it is there.
	other := filepath.Join(filepath.Dir(program), "criu-"+filepath.Base(s.Dir))
	t.Cleanup(func() { _ = os.Remove(other) })
	if err == nil {
		err = errors.Join(os.WriteFile(other, []byte(script), 0o700), os.Symlink(other, link))
	}
	if err == nil {
		err = s.StartSproutd(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	fresh := func() {
		t.Helper()
		eventually(t, func() error {
			if out := inspect(); !isReady.MatchString(out) {
				return fmt.Errorf("not ready: %s", out)
			}
			return nil
		})
	}
	fresh()
	setPool(t, s, "moving", 1)
	run(t, s, "again", "moving")
	wantRung(t, s, "again", "thaw")

	kill(t, s.SproutdPID())
	s.WaitSproutd()
	tag("python-demo")
	if err := s.StartSproutd(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := inspect()
	eventually(t, func() error {
		if out := inspect(); strings.Split(out, "\n")[1] == strings.Split(before, "\n")[1] {
			return fmt.Errorf("not baked again: %s", out)
		}
		return nil
	})
	fresh()
	setPool(t, s, "moving", 1)
	run(t, s, "new", "moving")
	wantRung(t, s, "new", "thaw")
	if out, err := s.Ctr(t.Context(), "task", "ls"); err != nil || strings.Count(out, "RUNNING") != 3 {
		t.Errorf("containers of the old seeds do not run: %v\n%s", err, out)
	}
}
