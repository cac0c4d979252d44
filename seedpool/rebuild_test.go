package seedpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// testImages stands for containerd: what one image is, or why that cannot be said.
type testImages struct {
	image     Image
	container Container
	err       error
}

func (i *testImages) Image(context.Context, string, string) (Image, error) { return i.image, i.err }

func (i *testImages) Container(context.Context, string, string) (Container, error) {
	return i.container, i.err
}

var oldImage = Image{ChainID: "sha256:image", Config: ocispec.ImageConfig{Cmd: []string{"python3", "server.py"}, WorkingDir: "/app", Env: []string{"PATH=/bin"}}}

// wholeRequest asks for all that a seed can have. The instances of the tests are ready: their root has the file.
func wholeRequest(t testing.TB) *api.BakeRequest {
	t.Helper()
	data, err := json.Marshal(spec())
	if err != nil {
		t.Fatal(err)
	}
	afterWake, err := ParseAfterWake("signal=URG", time.Second, true)
	if err != nil {
		t.Fatal(err)
	}
	return &api.BakeRequest{
		Namespace: "ns", Name: "shop", Image: "shop:latest", ChainId: "sha256:image", Spec: data, Mode: ModePrestart, Warmup: 7,
		Ready:   &api.Readiness{Kind: "file", Target: "/etc/passwd", TimeoutNanoseconds: int64(20 * time.Second)},
		LateEnv: []string{"LATE"}, LateMounts: []string{"/data"}, AfterWake: afterWake,
	}
}

// baked bakes a seed as a user does, with the image as containerd has it.
func (b *bed) baked(images Images) *seed {
	b.t.Helper()
	b.pool.imageStore = images
	r := wholeRequest(b.t)
	o, err := b.pool.order(r)
	if err != nil {
		b.t.Fatal(err)
	}
	o.tell = func(*api.BakeEvent) {}
	b.pool.noteImage(b.t.Context(), r)
	if _, err := b.pool.bake(b.t.Context(), o); err != nil {
		b.t.Fatal(err)
	}
	return b.named("shop")
}

func (b *bed) named(name string) *seed {
	b.t.Helper()
	s, err := b.pool.find("ns", name)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// reopen restarts the pool on a machine with another sprout, or the same one; seeds are baked again only if the test says so.
func (b *bed) reopen(version string, rebuild bool) *Pool {
	b.t.Helper()
	b.close()
	b.config.Seeds.Rebuild = rebuild
	p := b.prepare()
	p.host = maps.Clone(testHost)
	p.host[PartSprout] = version
	if err := p.open(context.Background()); err != nil {
		b.t.Fatal(err)
	}
	b.pool = p
	<-p.Recovered()
	return p
}

func TestAStaleSeedIsBakedAgainAsItWasAndTakesNameAndPool(t *testing.T) {
	b := newBed(t)
	b.recovered()
	old := b.baked(&testImages{image: oldImage})
	b.fill(old, 2)
	asked, err := old.dir.request()
	if err != nil {
		t.Fatal(err)
	}
	b.reopen("another", true)
	b.eventually("the seed to be baked again", func() error {
		if s := b.named("shop"); s.id == old.id || b.pool.metaOf(s).Info.Phase != SeedReady {
			return fmt.Errorf("%v", b.pool.metaOf(s).Info)
		}
		return nil
	})
	renewed := b.named("shop")
	b.ready("shop", 2)
	b.eventually("the old one to go", func() error {
		if _, err := os.Stat(string(old.dir)); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("its directory: %w", err)
		}
		return nil
	})
	again, err := renewed.dir.request()
	if diff := cmp.Diff(asked, again, protocmp.Transform()); diff != "" || err != nil {
		t.Errorf("%v\n%s", err, diff)
	}
	want := proto.CloneOf(old.meta)
	want.Info.Id, want.Info.CreatedUnixNanoseconds, want.Info.Key.Parts[PartSprout] = renewed.id, renewed.meta.Info.CreatedUnixNanoseconds, "another"
	if diff := cmp.Diff(want, renewed.meta, protocmp.Transform(), protocmp.IgnoreFields(&api.SeedMeta{}, "phases")); diff != "" {
		t.Error(diff)
	}
	b.nothingLeft()
}

func TestARebuildThatFailsIsTriedAgainLaterAndShown(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.baked(nil)
	p := b.reopen("another", false)
	b.rootfs.setFail("PrepareBake", errors.New("no room"))
	next, stop := p.events.follow()
	defer stop()
	now := time.Now()
	if p.rebuildNext(t.Context(), now) != 0 || p.rebuildNext(t.Context(), now) == 0 {
		t.Error("it is not tried, or tried again at once")
	}
	kinds := []string{(<-next).Kind, (<-next).Kind}
	if !slices.Equal(kinds, []string{EventRebuilding, EventRebuildFailed}) {
		t.Errorf("events %v", kinds)
	}
	p = b.reopen("another", false)
	sv := &service{pool: p}
	info, err := sv.InspectSeed(t.Context(), &api.SeedRef{Namespace: "ns", Name: "shop"})
	if err != nil {
		t.Fatal(err)
	}
	pause := time.Unix(0, info.Rebuild.GetAgainUnixNanoseconds()).Sub(now)
	if r := info.Rebuild; r.GetFailures() != 1 || r.Running || !strings.Contains(r.Error, "no room") || pause < firstRebuildPause || pause > firstRebuildPause+10*time.Second {
		t.Errorf("after a restart: %v, again in %s", r, pause)
	}
	if p.rebuildNext(t.Context(), now.Add(2*firstRebuildPause)) != 0 {
		t.Error("it is never tried again")
	}
	if r := p.metaOf(b.named("shop")).Info.Rebuild; r.Failures != 2 {
		t.Errorf("%v", r)
	}
	b.rootfs.setFail("PrepareBake", nil)
	if p.rebuildNext(t.Context(), now.Add(time.Hour)) != 0 || p.metaOf(b.named("shop")).Info.Phase != SeedReady {
		t.Errorf("%v", p.metaOf(b.named("shop")).Info)
	}
	if b.named("shop").id == s.id {
		t.Error("it is the old one")
	}
}

func TestASeedThatIsRemovedWhileItIsBakedAgainStaysRemoved(t *testing.T) {
	b := newBed(t)
	b.recovered()
	b.baked(nil)
	p := b.reopen("another", false)
	old := b.named("shop")
	p.point = func(name string) {
		if name == "seed tried" {
			if err := p.removeSeed(context.Background(), old); err != nil {
				t.Error(err)
			}
		}
	}
	done, err := p.beginBake("ns", "shop")
	if err != nil {
		t.Fatal(err)
	}
	if pause := p.rebuildNext(t.Context(), time.Now()); pause < untilRest {
		t.Errorf("while somebody bakes it, it is tried again in %s", pause)
	}
	done()
	if pause := p.rebuildNext(t.Context(), time.Now()); pause < untilRest {
		t.Errorf("when it was removed meanwhile, it is tried again in %s", pause)
	}
	if s, err := p.find("ns", "shop"); err == nil {
		t.Errorf("it is there again: %v", s.meta.Info)
	}
	if left := names(t, p.paths.SeedsDir()); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	b.nothingLeft()
}

func TestASeedFollowsTheNameOfItsImage(t *testing.T) {
	b := newBed(t)
	b.recovered()
	b.config.Seeds.Rebuild = false
	image := &testImages{image: oldImage}
	old := b.baked(image)
	p := b.reopen("s", false)
	p.imageStore = image
	tries := func(what string, want bool) {
		t.Helper()
		if (p.rebuildNext(t.Context(), time.Now()) == 0) != want {
			t.Errorf("%s: want a rebuild: %v", what, want)
		}
	}
	tries("the same image", false)
	image.image.ChainID = "sha256:newer"
	image.image.Config.Cmd = []string{"python4", "server.py"}
	for _, err := range []error{errdefs.ErrNotFound, errdefs.ErrUnavailable, context.DeadlineExceeded} {
		image.err = fmt.Errorf("containerd says: %w", err)
		tries(err.Error(), false)
	}
	image.err = nil
	b.rootfs.setFail("PrepareBake", errdefs.ErrNotFound)
	tries("nobody has unpacked the new image", false)
	if r := p.metaOf(b.named("shop")).Info.Rebuild; r.GetFailures() > 0 {
		t.Errorf("that counts as a failure: %v", r)
	}
	b.rootfs.setFail("PrepareBake", nil)
	tries("another image", true)
	s := b.named("shop")
	if s.id == old.id || s.meta.ChainId != "sha256:newer" {
		t.Errorf("%v", s.meta)
	}
	moved := spec()
	moved.Process.Args[0] = "python4"
	if found := p.lookup("ns", "sha256:newer", keyOf(t, moved)); found.Seed.GetId() != s.id {
		t.Errorf("%v", found)
	}
	tries("it is right now", false)
	image.image.ChainID, image.image.Config.User = "sha256:third", "www"
	tries("another user", true)
	if r := p.metaOf(b.named("shop")).Info.Rebuild; !strings.Contains(r.GetError(), `"www"`) {
		t.Errorf("%v", r)
	}
}

func TestOfASpecWhatCameFromTheImageIsReplaced(t *testing.T) {
	old := ocispec.ImageConfig{Entrypoint: []string{"/entry"}, Cmd: []string{"serve"}, Env: []string{"PATH=/bin", "VERSION=1", "GONE=1", "MINE=image"}, WorkingDir: "/a"}
	to := ocispec.ImageConfig{Entrypoint: []string{"/enter"}, Cmd: []string{"run"}, Env: []string{"PATH=/usr/bin", "VERSION=2", "MINE=newer", "COME=1"}}
	for name, c := range map[string]struct{ args, want []string }{
		"the image's":          {[]string{"/entry", "serve"}, []string{"/enter", "run"}},
		"arguments of its own": {[]string{"/entry", "check", "-v"}, []string{"/enter", "check", "-v"}},
		"a command of its own": {[]string{"sh"}, []string{"sh"}},
	} {
		t.Run(name, func(t *testing.T) {
			p := spec().Process
			p.Args, p.Cwd, p.Env = c.args, "/a", []string{"PATH=/bin", "VERSION=1", "GONE=1", "MINE=user", "OWN=x=y"}
			moveProcess(p, old, to)
			slices.Sort(p.Env)
			if diff := cmp.Diff([]string{"COME=1", "MINE=user", "OWN=x=y", "PATH=/usr/bin", "VERSION=2"}, p.Env); diff != "" || !slices.Equal(p.Args, c.want) || p.Cwd != "/" {
				t.Errorf("%v %v %s", p.Args, p.Cwd, diff)
			}
		})
	}
}
