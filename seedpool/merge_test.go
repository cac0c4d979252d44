package seedpool

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// ksmSettings are those of the machine now.
func ksmSettings(t *testing.T) map[string]string {
	t.Helper()
	now := make(map[string]string)
	for _, s := range burstSettings {
		value, err := linux.KSM(s.name)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		now[s.name] = value
	}
	return now
}

// offering starts a process that offers its memory and does nothing.
func offering(t *testing.T) *exec.Cmd {
	t.Helper()
	c := exec.Command("/proc/self/exe")
	c.Env = append(os.Environ(), processEnv+"=offering")
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(in.Close(), c.Wait()) })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return c
}

func offeringProcess() error {
	if err := linux.OfferMemory(); err != nil {
		return err
	}
	_, err := os.Stdout.WriteString("!")
	_, _ = io.Copy(io.Discard, os.Stdin)
	return err
}

// mergingPool has a seed that is merged, and whose keeper offers its memory.
func mergingPool(t *testing.T) *Pool {
	t.Helper()
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "merged", keyOf(t, spec()))
	ours := offering(t)
	p.mu.Lock()
	s.meta.Boot, s.keeperPID = &api.Boot{Merge: true}, int64(ours.Process.Pid)
	p.mu.Unlock()
	return p
}

func TestABurstIsOverWithTheSettingsThatItFound(t *testing.T) {
	p := mergingPool(t)
	before := ksmSettings(t)
	worked := false
	p.point = func(name string) {
		if name == "ksmd at work" {
			worked = true
			if run, err := linux.KSM("run"); err != nil || run != "1" {
				t.Errorf("run is %s, %v", run, err)
			}
		}
	}
	if _, err := p.burst(t.Context()); err != nil || !worked {
		t.Errorf("worked: %v, %v", worked, err)
	}
	if after := ksmSettings(t); !maps.Equal(before, after) {
		t.Errorf("%v before, %v after", before, after)
	}

	// One that offers, too, and is not ours.
	worked = false
	other := offering(t)
	if _, err := p.burst(t.Context()); err == nil || !strings.Contains(err.Error(), "offers memory") || worked {
		t.Errorf("with another's memory: worked %v, %v", worked, err)
	}
	p.point = func(name string) {
		if name == "settings of ksmd saved" {
			other = offering(t)
		}
	}
	_ = other.Process.Kill()
	_, _ = other.Process.Wait()
	if _, err := p.burst(t.Context()); err == nil || !strings.Contains(err.Error(), "offers memory") {
		t.Errorf("with another's memory that is offered later: %v", err)
	}
	if after := ksmSettings(t); !maps.Equal(before, after) {
		t.Errorf("%v before, %v after", before, after)
	}
}

func TestSettingsOfABurstThatWasCutArePutBack(t *testing.T) {
	b := newBed(t)
	before := ksmSettings(t)
	p := b.recovered()
	if err := p.saveSettings(); err != nil {
		t.Fatal(err)
	}
	for _, s := range burstSettings {
		if err := linux.SetKSM(s.name, s.value); err != nil {
			t.Fatal(err)
		}
	}
	b.close()
	b.recovered()
	if after := ksmSettings(t); !maps.Equal(before, after) {
		t.Errorf("%v before, %v after", before, after)
	}
	if left, _ := filepath.Glob(b.config.RunDir + "/merging*"); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestWhatMustNotBeMergedIsRefusedBeforeItIsBaked(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "merged", keyOf(t, spec()))
	p.mu.Lock()
	s.meta.Boot = &api.Boot{Merge: true}
	p.mu.Unlock()
	for name, test := range map[string]struct {
		request *api.BakeRequest
		refused func(error) bool
		says    string
	}{
		"clone":            {&api.BakeRequest{Namespace: "ns", Mode: ModeClone, Merge: true}, errdefs.IsInvalidArgument, "prestart"},
		"clone, trimmed":   {&api.BakeRequest{Namespace: "ns", Mode: ModeClone, Trim: true}, errdefs.IsInvalidArgument, "prestart"},
		"clone, alike":     {&api.BakeRequest{Namespace: "ns", Mode: ModeClone, Deterministic: true}, errdefs.IsInvalidArgument, "prestart"},
		"another's tenant": {&api.BakeRequest{Namespace: "other", Mode: ModePrestart, Merge: true}, errdefs.IsFailedPrecondition, "one namespace only"},
	} {
		if err := p.checkMerge(test.request); err == nil || !test.refused(err) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, request := range map[string]*api.BakeRequest{
		"the same tenant":            {Namespace: "ns", Mode: ModePrestart, Merge: true, Deterministic: true},
		"another's, that is not":     {Namespace: "other", Mode: ModePrestart},
		"another's, only booted":     {Namespace: "other", Mode: ModePrestart, Deterministic: true},
		"a clone that is not merged": {Namespace: "ns", Mode: ModeClone},
	} {
		if err := p.checkMerge(request); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestABurstThatNobodyWaitsForEnds(t *testing.T) {
	p := mergingPool(t)
	before := ksmSettings(t)
	ctx, cancel := context.WithCancel(t.Context())
	p.point = func(name string) {
		if name == "ksmd at work" {
			cancel()
		}
	}
	if _, err := p.burst(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if after := ksmSettings(t); !maps.Equal(before, after) {
		t.Errorf("%v before, %v after", before, after)
	}
}
