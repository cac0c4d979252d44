package integration

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sproutrun/sprout/integration/stack"
)

// usage is a row of `sprout top --json`.
type usage struct {
	Seed, Kind, ID, Rung               string
	Processes                          int
	Logical, Physical, Private, Merged uint64 `json:",string"`
}

func usages(t *testing.T, s *stack.Stack) (list []usage) {
	t.Helper()
	out, err := s.Sprout(t.Context(), "top", "--json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		t.Fatal(err)
	}
	return list
}

// ksmd gives the settings of the kernel's merging that may be changed.
func ksmd(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, name := range []string{"run", "pages_to_scan", "sleep_millisecs", "smart_scan", "advisor_mode"} {
		data, err := os.ReadFile(filepath.Join("/sys/kernel/mm/ksm", name))
		if err != nil {
			t.Fatal(err)
		}
		all.WriteString(name + "=" + string(data))
	}
	return all.String()
}

func TestEqualMemoryOfSparesIsMerged(t *testing.T) {
	s := ownStack(t, "python-demo")
	before := ksmd(t)
	seed := bakedPrestart(t, s, "--merge", "--deterministic")
	if out, err := s.Sprout(t.Context(), "seed", "inspect", seed); err != nil || !strings.Contains(out, "merged, and booted alike") {
		t.Errorf("%v\n%s", err, out)
	}
	events := s.Command(t.Context(), "sprout", "events")
	var told transcript
	told.more = make(chan struct{}, 1)
	events.Stdout = &told
	if err := events.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = events.Process.Kill(); _ = events.Wait() }()
	told.take(t, "following")
	setPool(t, s, seed, 3)
	told.take(t, "merged")
	if after := ksmd(t); after != before {
		t.Errorf("before:\n%safterwards:\n%s", before, after)
	}
	var sum, one, merged uint64
	for _, u := range usages(t, s) {
		if u.Kind == "spare" {
			sum, one, merged = sum+u.Physical, max(one, u.Logical), merged+u.Merged
		}
	}
	if sum == 0 || sum > one*3/2 || merged < one {
		t.Errorf("three spares of %d KiB take %d, %d are merged", one>>10, sum>>10, merged>>10)
	}
	run(t, s, "merged", "python-demo")
	wantRung(t, s, "merged", "thaw")
	get(t, s, "merged", "/")

	if out, err := s.Sprout(t.Context(), "--namespace", "another", "seed", "bake", "--name", "theirs", "--merge", "--image", stack.Ref("python-demo"), "--ready", "http://:8080/"); err == nil {
		t.Errorf("memory of two namespaces would be merged: %s", out)
	}
}
