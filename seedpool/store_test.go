package seedpool

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	bolt "go.etcd.io/bbolt"
	"google.golang.org/protobuf/testing/protocmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

func openTestStore(t *testing.T, p Paths, boot string) *store {
	t.Helper()
	s, err := openStore(p, boot)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func storePaths(t *testing.T) Paths {
	dir := t.TempDir()
	return Paths{RunDir: dir, StateDir: dir}
}

func TestRowsComeBackAsTheyWereWritten(t *testing.T) {
	p := storePaths(t)
	s := openTestStore(t, p, "boot")
	meta := &api.SeedMeta{Info: &api.SeedInfo{Id: "s1", Name: "shop", Phase: SeedReady, Key: keyOf(t, spec())}, ChainId: "c", StdioKeys: []string{"", "a", "b"}}
	row := &api.InstanceRow{Instance: &api.Instance{Id: "i1", Seed: "s1", Pid: 7, StartTime: 1 << 40}, Phase: "ready", Upperdir: "/x"}
	for _, err := range []error{s.replaceSeed(meta, "", spareBounds{min: 3, max: 5}), s.putInstance(row), s.setChecked("s1", "abc"), s.close()} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openTestStore(t, p, "boot")
	defer s.close()
	seeds, want, err := s.seeds()
	if diff := cmp.Diff(map[string]*api.SeedMeta{"s1": meta}, seeds, protocmp.Transform()); err != nil || diff != "" || want["s1"] != (spareBounds{min: 3, max: 5}) {
		t.Errorf("%v, %d spares: %s", err, want["s1"], diff)
	}
	rows, err := s.instances()
	if diff := cmp.Diff([]*api.InstanceRow{row}, rows, protocmp.Transform()); err != nil || diff != "" {
		t.Errorf("%v: %s", err, diff)
	}
	if identity, err := s.checked("s1"); err != nil || identity != "abc" {
		t.Errorf("checked %q, %v", identity, err)
	}
}

func TestANewSeedTakesThePlaceAndThePoolOfTheOldInOneStep(t *testing.T) {
	s := openTestStore(t, storePaths(t), "boot")
	defer s.close()
	for _, err := range []error{
		s.replaceSeed(&api.SeedMeta{Info: &api.SeedInfo{Id: "old"}}, "", spareBounds{min: 2, max: 2}),
		s.replaceSeed(&api.SeedMeta{Info: &api.SeedInfo{Id: "new"}}, "old", spareBounds{min: 2, max: 2}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	seeds, want, err := s.seeds()
	if err != nil || len(seeds) != 1 || seeds["new"] == nil || len(want) != 1 || want["new"] != (spareBounds{min: 2, max: 2}) {
		t.Errorf("%v %v %v", seeds, want, err)
	}
}

func TestInstancesOfAnEarlierBootAreForgottenAndSeedsAreNot(t *testing.T) {
	p := storePaths(t)
	s := openTestStore(t, p, "one")
	for _, err := range []error{
		s.replaceSeed(&api.SeedMeta{Info: &api.SeedInfo{Id: "s1"}}, "", spareBounds{min: 2, max: 2}), s.setChecked("s1", "x"),
		s.putInstance(&api.InstanceRow{Instance: &api.Instance{Id: "i1"}}), s.close(),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s = openTestStore(t, p, "two")
	defer s.close()
	rows, err := s.instances()
	seeds, want, seedsErr := s.seeds()
	checked, checkedErr := s.checked("s1")
	if len(rows) != 0 || len(seeds) != 1 || want["s1"] != (spareBounds{min: 2, max: 2}) || checked != "" || err != nil || seedsErr != nil || checkedErr != nil {
		t.Errorf("instances %v, seeds %v, checked %q", rows, seeds, checked)
	}
	if left, _ := filepath.Glob(filepath.Join(p.RunDir, "instances-*.db")); len(left) != 1 {
		t.Errorf("databases %v", left)
	}
}

func TestTornDatabasesAreSetAside(t *testing.T) {
	p := storePaths(t)
	s := openTestStore(t, p, "boot")
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{p.Database(), filepath.Join(p.RunDir, "instances-boot.db")} {
		write(t, file, strings.Repeat("not a database ", 1000))
	}
	s = openTestStore(t, p, "boot")
	defer s.close()
	if seeds, _, err := s.seeds(); err != nil || len(seeds) != 0 {
		t.Errorf("%v %v", seeds, err)
	}
	if _, err := os.Stat(p.Database() + ".torn"); err != nil {
		t.Error(err)
	}
}

func TestADatabaseOfANewerSproutIsRefused(t *testing.T) {
	p := storePaths(t)
	s := openTestStore(t, p, "boot")
	err := s.state.Update(func(tx *bolt.Tx) error { return tx.Bucket(bucketMeta).Put(keyVersion, []byte("99")) })
	if err != nil || s.close() != nil {
		t.Fatal(err)
	}
	if _, err := openStore(p, "boot"); err == nil || !strings.Contains(err.Error(), "99") {
		t.Errorf("opened: %v", err)
	}
}

func TestIDsAreSortedByTimeAndSafeInPaths(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		id := newID()
		if len(id) != 18 || seen[id] || strings.ContainsAny(id, "/.") {
			t.Fatalf("id %q", id)
		}
		seen[id] = true
	}
}
