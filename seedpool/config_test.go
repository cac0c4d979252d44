package seedpool

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTheCommentedDefaultIsTheDefault(t *testing.T) {
	var c Config
	if err := parseConfig([]byte(Default().Commented()), &c); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(Default(), c); diff != "" {
		t.Error(diff)
	}
}

func TestEveryKeyIsInTheCommentedDefault(t *testing.T) {
	text := Default().Commented()
	for _, key := range []string{"run_dir", "state_dir", "cgroup_root", "criu", "runc", "shim", "idle_shims", "refill_parallel", "refill_backoff", "bind_timeout", "metrics_address", "log_level", "shared", "from"} {
		if !strings.Contains(text, "\n"+key+" = ") {
			t.Errorf("%s is missing", key)
		}
	}
}

func TestAFileOverridesTheDefaults(t *testing.T) {
	file := filepath.Join(t.TempDir(), "c.toml")
	write(t, file, "idle_shims = 0\nbind_timeout = \"5s\"\n")
	c, err := LoadConfig(file, true)
	if err != nil || c.IdleShims != 0 || time.Duration(c.BindTimeout) != 5*time.Second || c.CgroupRoot != DefaultCgroupRoot {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestASmallImageIsNotShared(t *testing.T) {
	c := Default()
	if err := parseConfig([]byte("[restore]\nshared = true\nfrom = \"4MiB\"\n"), &c); err != nil {
		t.Fatal(err)
	}
	if c.Restore.shares(4<<20-1) || !c.Restore.shares(4<<20) {
		t.Errorf("%+v", c.Restore)
	}
	if c.Restore.Shared = false; c.Restore.shares(1 << 40) {
		t.Error("shared although it is switched off")
	}
}

func TestAFileThatWasNotAskedForMayBeMissing(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "c.toml")
	if c, err := LoadConfig(missing, false); err != nil || !cmp.Equal(c, Default()) {
		t.Errorf("%+v, %v", c, err)
	}
	if _, err := LoadConfig(missing, true); err == nil {
		t.Error("a file that was named may be missing")
	}
}

func TestAWrongConfigurationIsRefusedWithKeyAndLine(t *testing.T) {
	for text, want := range map[string][]string{
		"\ncolour = \"green\"":                            {"line 2", "colour", "config default"},
		"[pool]\nspares = 1":                              {"pool"},
		"idle_shims = \"two\"":                            {"line 1", "idle_shims"},
		"idle_shims = -1":                                 {"idle_shims", "-1"},
		"refill_parallel = 0":                             {"refill_parallel"},
		"bind_timeout = \"soon\"":                         {"line 1", "soon"},
		"bind_timeout = \"1ms\"":                          {"bind_timeout", "1s"},
		"run_dir = \"run\"":                               {"run_dir", "absolute"},
		"cgroup_root = \"/a/../b\"":                       {"cgroup_root"},
		"cgroup_root = \"/\"":                             {"cgroup_root"},
		"criu = \"\"":                                     {"criu"},
		"log_level = \"loud\"":                            {"log_level", "loud", "debug"},
		"run_dir = \"/" + strings.Repeat("x", 100) + "\"": {"run_dir", "too long"},
		"idle_shims = ":                                   {"line 1"},
		"[restore]\nfrom = \"4MB\"":                       {"line 2", "from", "4MB", "MiB"},
		"[restore]\nfrom = \"99999999999GiB\"":            {"line 2", "from"},
		"[restore]\nshare = true":                         {"line 2", "share"},
	} {
		c := Default()
		err := parseConfig([]byte(text), &c)
		if err == nil {
			t.Errorf("%q: accepted", text)
			continue
		}
		for _, word := range want {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%q: %q is not in: %v", text, word, err)
			}
		}
	}
}

func TestTheRunDirectoryFollowsTheEnvironment(t *testing.T) {
	t.Setenv(RunDirEnv, "/somewhere")
	if Default().RunDir != "/somewhere" || PathsFromEnv().APISocket() != "/somewhere/sproutd.sock" {
		t.Error("it does not")
	}
	if err := os.Unsetenv(RunDirEnv); err != nil || Default().RunDir != DefaultRunDir {
		t.Errorf("without it the run directory is %s", Default().RunDir)
	}
}

func FuzzConfig(f *testing.F) {
	f.Add(Default().Commented())
	f.Add("idle_shims = 1e9")
	f.Fuzz(func(t *testing.T, text string) {
		c := Default()
		if parseConfig([]byte(text), &c) == nil && c.Validate() != nil {
			t.Error("parsed and is not valid")
		}
	})
}
