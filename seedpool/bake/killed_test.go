package bake

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/imagetest"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// job is a bake that another process does.
type job struct {
	Dir, ImagesDir, Runc, CRIU, Cgroup string
	Overlay                            []string
	Spec                               *specs.Spec
	Ready                              Readiness
	Warmup                             int
}

// doJob bakes and prints each step; it fails, too, when it is not root any more.
func doJob(file string) int {
	var j job
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &j)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	_, err = Run(context.Background(), Options{
		ID: "bake", Dir: j.Dir, ImagesDir: j.ImagesDir, Overlay: j.Overlay, Spec: j.Spec, Ready: j.Ready, Warmup: j.Warmup,
		RuncPath: j.Runc, CRIU: restore.CRIU{Path: j.CRIU}, CgroupPath: j.Cgroup,
		Progress: func(e *api.BakeEvent) { fmt.Println(e.GetStep()) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, report(err))
		return 1
	}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 || gid != 0 {
		fmt.Fprintf(os.Stderr, "the baking process has become user %d, group %d\n", uid, gid)
		return 1
	}
	return 0
}

// Where CAP_SYS_RESOURCE is missing CRIU needs the app's ids to dump it; the baking process must stay root all the same.
func TestBakesAnAppOfAnotherUser(t *testing.T) {
	b := newBed(t)
	o := b.options(imagetest.Get(t, "tiny-demo"), "log=up", "sh", "-c", "echo up; exec sleep infinity")
	o.Spec.Process.User = specs.User{UID: 1000, GID: 1000}
	cmd := jobCommand(t, o)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%v:\n%s", err, out)
	}
	if err := os.RemoveAll(o.ImagesDir); err != nil {
		t.Error(err)
	}
}

// moments are when a bake is cut short: so long after the first report of a step.
var moments = []struct {
	step   Step
	after  time.Duration
	ready  string
	warmup int
}{
	{StepBoot, 0, "tcp://:7001", 0},
	{StepBoot, 5 * time.Millisecond, "tcp://:7001", 0},
	{StepBoot, 10 * time.Millisecond, "tcp://:7001", 0},
	{StepBoot, 15 * time.Millisecond, "tcp://:7001", 0},
	{StepBoot, 20 * time.Millisecond, "tcp://:7001", 0},
	{StepBoot, 30 * time.Millisecond, "tcp://:7001", 0},
	{StepBoot, 40 * time.Millisecond, "tcp://:7001", 0},
	{StepReady, 0, "tcp://:7001", 0},
	{StepReady, 70 * time.Millisecond, "exec=false", 0},
	{StepWarmup, 0, "tcp://:7000", 100_000},
	{StepDump, 0, "tcp://:7000", 0},
	{StepDump, 30 * time.Millisecond, "tcp://:7000", 0},
	{StepDump, 60 * time.Millisecond, "tcp://:7000", 0},
	{StepDump, 90 * time.Millisecond, "tcp://:7000", 0},
}

func TestCleanupAfterAKillLeavesNothing(t *testing.T) {
	for _, m := range moments {
		t.Run(fmt.Sprintf("%s %s", m.step, m.after), func(t *testing.T) {
			b := newBed(t)
			o := b.options(imagetest.Get(t, "tiny-demo"), m.ready, "perl", "-e", perlServer)
			o.Warmup = m.warmup
			killDuring(t, m.step, m.after, jobCommand(t, o))
			if err := CleanupDir(t.Context(), o.Dir); err != nil {
				t.Error(err)
			}
			if err := os.RemoveAll(o.ImagesDir); err != nil {
				t.Error(err)
			}
			// CRIU and runc die of the kill in their own time.
			b.eventually(func() bool { return len(b.processes()) == 0 })
		})
	}
}

// jobCommand is another process that bakes.
func jobCommand(t *testing.T, o Options) *exec.Cmd {
	t.Helper()
	data, err := json.Marshal(job{
		Dir: o.Dir, ImagesDir: o.ImagesDir, Runc: o.RuncPath, CRIU: o.CRIU.Path, Cgroup: o.CgroupPath,
		Overlay: o.Overlay, Spec: o.Spec, Ready: o.Ready, Warmup: o.Warmup,
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "job.json")
	writeFile(t, file, string(data))
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "SPROUT_TEST_JOB="+file)
	return cmd
}

// killDuring starts another process that bakes, and kills it some time after it reports step.
func killDuring(t *testing.T, step Step, after time.Duration, cmd *exec.Cmd) {
	t.Helper()
	cmd.Stderr = os.Stderr
	steps, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for lines := bufio.NewScanner(steps); lines.Scan(); {
		if strings.TrimSpace(lines.Text()) == string(step) {
			break
		}
	}
	<-time.After(after)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil && after == 0 {
		t.Fatalf("the bake was over before it was killed in step %s", step)
	}
}

// eventually waits for a condition that the kernel tells nobody about.
func (b *bed) eventually(holds func() bool) {
	b.t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for !holds() {
		select {
		case <-again.C:
		case <-deadline.C:
			b.t.Error("it did not happen within 10 s")
			return
		}
	}
}
