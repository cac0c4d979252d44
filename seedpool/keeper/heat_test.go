package keeper

import (
	"fmt"
	"os"
	"strings"
	"testing"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// makeShared makes an instance that is to share its memory.
func (b *bed) makeShared(id string, atOnce bool) *api.MakeResponse {
	b.t.Helper()
	r := b.request(id)
	r.Shared, r.AtOnce = true, atOnce
	resp, err := b.Make(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	if mapsStore(b.t, resp.Instance) != (resp.Unshared == nil) {
		b.t.Errorf("instance %s maps the store: %v, and is said to be unshared: %v", id, resp.Unshared == nil, resp.Unshared)
	}
	return resp
}

// mapsStore says whether an instance has mappings of the seed's one copy.
func mapsStore(t *testing.T, i *api.Instance) bool {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", i.Pid))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(maps), "sprout-store")
}

// answers wakes an instance of python-demo.
func (b *bed) answers(i *api.Instance) {
	b.t.Helper()
	if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
		b.t.Fatal(err)
	}
	if err := bake.Probe(b.t.Context(), int(i.Pid), mustReady(b.t, "http://:8080/")); err != nil {
		b.t.Fatal(err)
	}
}

func TestInstancesShareTheKeepersMemory(t *testing.T) {
	b := newBed(t, "python-demo", "http://:8080/")
	first := b.makeShared("at-once", true)
	if first.Unshared.GetReason() != ReasonNotReady {
		t.Errorf("the first, which does not wait: %v", first.Unshared)
	}
	b.answers(first.Instance)
	for _, id := range []string{"one", "two"} {
		made := b.makeShared(id, false)
		if made.Unshared != nil {
			t.Fatalf("%s: %v", id, made.Unshared)
		}
		b.answers(made.Instance)
	}
	last := b.makeShared("at-once-again", true)
	if last.Unshared != nil {
		t.Errorf("the last, which need not wait: %v", last.Unshared)
	}
	b.answers(last.Instance)
	give := &api.GiveUpRequest{Memory: true}
	if had, err := b.GiveUp(t.Context(), give); err != nil || had.Memory {
		t.Errorf("memory that instances share was given up: %v, %v", had, err)
	}
	for _, id := range []string{"at-once", "one", "two", "at-once-again"} {
		if _, err := b.Kill(t.Context(), &api.InstanceRef{Id: id}); err != nil {
			t.Fatal(err)
		}
	}
	if had, err := b.GiveUp(t.Context(), give); err != nil || !had.Memory {
		t.Errorf("memory that nobody shares was kept: %v, %v", had, err)
	}
	again := b.makeShared("again", false)
	if again.Unshared != nil {
		t.Errorf("after that: %v", again.Unshared)
	}
	b.answers(again.Instance)
}

func TestInstanceThatCannotShareHasMemoryOfItsOwn(t *testing.T) {
	b := sleepingBed(t)
	broken := b.request("broken")
	broken.Images, broken.Shared = t.TempDir(), true
	if _, err := b.Make(t.Context(), broken); err == nil {
		t.Fatal("an instance of nothing")
	}
	// That was all that this keeper will try to share.
	made := b.makeShared("eager", false)
	if made.Unshared.GetReason() != ReasonNotShared || made.Unshared.GetDetail() == "" {
		t.Errorf("it is said: %v", made.Unshared)
	}
}
