package seedpool

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// coldStart is the report of a container that no seed fitted.
func coldStart(id string, annotations map[string]string) *api.ReportRequest {
	return &api.ReportRequest{
		Annotations: annotations,
		Start:       &api.Start{Namespace: "ns", Id: id, Rung: "cold", Fallbacks: []*api.Fallback{{Rung: "thaw", Reason: string(ReasonNoSeed)}}},
	}
}

// wanting is an annotated container whose instances are ready in the tests.
func wanting(mode string) map[string]string {
	return map[string]string{annotationAuto: mode, annotationReady: "file=/etc/passwd"}
}

// autoSpec is the spec of a container that may be a spare.
func autoSpec() *specs.Spec {
	s := spec()
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace}, specs.LinuxNamespace{Type: specs.UTSNamespace})
	return s
}

// autoBed is a pool that asks for one container of the image shop; by itself it bakes nothing.
func autoBed(t *testing.T, s *specs.Spec) (*bed, *service, *testImages) {
	t.Helper()
	b := newBed(t)
	b.config.Seeds.Rebuild = false
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	images := &testImages{image: oldImage, container: Container{Image: "docker.io/library/shop:1", Spec: data}}
	b.container("ns", "c1")
	p := b.prepare()
	p.imageStore = images
	b.pool = p
	if err := p.open(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-p.Recovered()
	return b, &service{pool: p}, images
}

func (b *bed) reported(sv *service, r *api.ReportRequest) string {
	b.t.Helper()
	answer, err := sv.Report(b.t.Context(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	return answer.Automatic
}

func TestAColdStartThatAsksForItHasASeedBakedForTheNext(t *testing.T) {
	b, sv, _ := autoBed(t, autoSpec())
	p := b.pool
	next, stop := p.events.follow()
	defer stop()
	if said := b.reported(sv, coldStart("c1", nil)); said != "" {
		t.Errorf("nobody has asked: %s", said)
	}
	said := b.reported(sv, coldStart("c1", wanting("true")))
	if !strings.Contains(said, "is being baked") || !strings.Contains(said, "prestart") {
		t.Fatal(said)
	}
	var kinds []string
	for e := range next {
		if e.Kind == EventAutoFailed || e.Kind == EventSpareReady {
			kinds = append(kinds, e.Kind+" "+e.Detail)
			break
		}
		if e.Kind == EventAutoBaking || e.Kind == EventSeedBaked {
			kinds = append(kinds, e.Kind)
		}
	}
	if want := "[auto-baking seed-baked spare-ready ]"; fmt.Sprint(kinds) != want {
		t.Errorf("events %v, want %s", kinds, want)
	}
	found := p.lookup("ns", "sha256:image", keyOf(t, autoSpec()))
	if found.Seed == nil || !found.Seed.Automatic || found.Spares != 1 || !strings.HasPrefix(found.Seed.Name, "shop-auto-") {
		t.Fatalf("%v", found)
	}
	asked, err := b.named(found.Seed.Name).dir.request()
	if err != nil || !asked.Automatic || len(asked.ImageConfig) == 0 {
		t.Errorf("it will not be baked again as it was: %v %v", asked, err)
	}
	b.eventually("the seed that is not used to go", func() error {
		p.dropUnused(t.Context(), time.Now().Add(time.Duration(p.config.Seeds.AutoUnused)-time.Minute))
		if _, err := p.find("ns", found.Seed.Name); err != nil {
			t.Fatal("it went too early")
		}
		p.dropUnused(t.Context(), time.Now().Add(time.Duration(p.config.Seeds.AutoUnused)+time.Minute))
		if _, err := p.find("ns", found.Seed.Name); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	b.nothingLeft()
}

func TestAnAutomaticBakeThatFailsIsNotTriedAgainAtOnce(t *testing.T) {
	b, sv, _ := autoBed(t, autoSpec())
	next, stop := b.pool.events.follow()
	defer stop()
	b.rootfs.setFail("PrepareBake", errors.New("no room"))
	b.reported(sv, coldStart("c1", wanting("true")))
	for e := range next {
		if e.Kind == EventAutoFailed {
			break
		}
	}
	if said := b.reported(sv, coldStart("c1", wanting("true"))); !strings.Contains(said, "failed 1 times") || !strings.Contains(said, "no room") {
		t.Error(said)
	}
	a := &b.pool.automatic
	a.mu.Lock()
	for _, f := range a.failed {
		f.AgainUnixNanoseconds = 0
	}
	a.mu.Unlock()
	b.rootfs.setFail("PrepareBake", nil)
	if said := b.reported(sv, coldStart("c1", wanting("true"))); !strings.Contains(said, "is being baked") {
		t.Error(said)
	}
	for e := range next {
		if e.Kind == EventAutoFailed {
			t.Fatal(e.Detail)
		}
		if e.Kind == EventSeedBaked {
			break
		}
	}
}

func TestWhatIsNotBakedAutomatically(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		edit        func(*specs.Spec, *testImages, *Keeping, *api.ReportRequest)
		want        string
	}{
		"another value": {wanting("yes"), nil, "want true, prestart, clone or false"},
		"denied": {wanting("true"), func(_ *specs.Spec, _ *testImages, k *Keeping, _ *api.ReportRequest) {
			k.AutoDeny = []string{"*/shop:*"}
		}, "not allowed"},
		"not allowed":       {wanting("true"), func(_ *specs.Spec, _ *testImages, k *Keeping, _ *api.ReportRequest) { k.AutoAllow = []string{"shop*"} }, "not allowed"},
		"too many":          {wanting("true"), func(_ *specs.Spec, _ *testImages, k *Keeping, _ *api.ReportRequest) { k.AutoMax = 0 }, "there are 0 automatic seeds"},
		"ready when":        {map[string]string{annotationAuto: "true"}, nil, "exposes 0 TCP ports"},
		"ready is no check": {map[string]string{annotationAuto: "true", annotationReady: "soon"}, nil, annotationReady},
		"secrets": {wanting("clone"), func(s *specs.Spec, _ *testImages, _ *Keeping, _ *api.ReportRequest) {
			s.Process.Env = append(s.Process.Env, "DB_PASSWORD=x")
		}, "looks secret"},
		"a pod": {wanting("true"), func(s *specs.Spec, _ *testImages, _ *Keeping, _ *api.ReportRequest) {
			s.Linux.Namespaces[1].Path = "/run/netns/pod"
		}, "shares namespaces"},
		"a sandbox": {wanting("true"), func(s *specs.Spec, _ *testImages, _ *Keeping, _ *api.ReportRequest) {
			s.Annotations = map[string]string{annotationKind: kindSandbox}
		}, ""},
		"no container": {wanting("true"), func(_ *specs.Spec, i *testImages, _ *Keeping, _ *api.ReportRequest) { i.err = errdefs.ErrNotFound }, "not found"},
		"another reason": {wanting("true"), func(_ *specs.Spec, _ *testImages, _ *Keeping, r *api.ReportRequest) {
			r.Start.Fallbacks[0].Reason = string(ReasonTTY)
		}, ""},
		"all, but not this one": {map[string]string{annotationAuto: "false"}, func(_ *specs.Spec, _ *testImages, k *Keeping, _ *api.ReportRequest) { k.Auto = true }, ""},
		"all": {nil, func(_ *specs.Spec, i *testImages, k *Keeping, _ *api.ReportRequest) {
			k.Auto, i.image.Config.ExposedPorts = true, map[string]struct{}{"80/tcp": {}, "81/udp": {}}
		}, "is being baked"},
	} {
		t.Run(name, func(t *testing.T) {
			s, images, r := autoSpec(), &testImages{image: Image{Config: ocispec.ImageConfig{}}}, coldStart("c1", c.annotations)
			config := Default()
			if c.edit != nil {
				c.edit(s, images, &config.Seeds, r)
			}
			data, err := json.Marshal(s)
			if err != nil {
				t.Fatal(err)
			}
			images.container = Container{Image: "docker.io/library/shop:1", Spec: data}
			p := testPool(config, &dirRootfs{root: t.TempDir()})
			p.imageStore = images
			if _, err := p.rootfs.(*dirRootfs).addContainer("c1"); err != nil {
				t.Fatal(err)
			}
			said := p.seedForNext(t.Context(), r)
			if !strings.Contains(said, c.want) || (said == "") != (c.want == "") || strings.Contains(said, "being baked") != (p.automatic.next() != nil) {
				t.Errorf("said %q, want %q", said, c.want)
			}
		})
	}
}

func TestOfOneImageOnlyAFewSeedsAreBakedAutomatically(t *testing.T) {
	p := testPool(Default(), nil)
	for n := range autoPerImage {
		id := fmt.Sprint("auto-", n)
		p.seeds[id] = p.newSeed(&api.SeedMeta{ChainId: "sha256:image", Info: &api.SeedInfo{Id: id, Namespace: "ns", Automatic: true}})
	}
	o := &order{request: &api.BakeRequest{Namespace: "ns", Name: "more", ChainId: "sha256:image"}}
	if err := p.wantSeed(o); !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), annotationLateEnv) {
		t.Error(err)
	}
	o.request.ChainId = "sha256:another"
	for range 2 {
		if err := p.automatic.add(o, time.Now()); err != nil || len(p.automatic.queue) != 1 {
			t.Error(err)
		}
	}
}

func TestWhenASeedWasUsedIsKept(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, autoSpec()))
	p.noteDemand(s.id)
	p.keepUsed(t.Context())
	used := s.used
	p = b.reopen("s", false)
	if got := p.seeds[s.id].used; got.UnixNano() != used.UnixNano() {
		t.Errorf("%s, was %s", got, used)
	}
}

func TestNamesOfAutomaticSeedsTellWhatTheyAreOf(t *testing.T) {
	name := func(image string, edit func(*specs.Spec)) string {
		t.Helper()
		s := autoSpec()
		if edit != nil {
			edit(s)
		}
		name, err := autoName(&api.BakeRequest{Image: image, ChainId: "sha256:a", LateEnv: []string{"LATE"}, LateMounts: []string{"/data"}}, s)
		if err != nil || checkName(name) != nil {
			t.Errorf("%q %v", name, err)
		}
		return name
	}
	one := name("docker.io/library/shop:1", nil)
	for what, same := range map[string]string{
		"late": name("docker.io/library/shop:1", func(s *specs.Spec) {
			s.Process.Env, s.Mounts[2].Source = append(s.Process.Env, "LATE=x"), "/srv/b"
		}),
		"bound late": name("docker.io/library/shop:1", func(s *specs.Spec) { s.Hostname = "b" }),
	} {
		if same != one {
			t.Errorf("%s: %s, want %s", what, same, one)
		}
	}
	if other := name("docker.io/library/shop:1", func(s *specs.Spec) { s.Process.Args = []string{"x"} }); other == one {
		t.Error("another command, and the same name")
	}
	name("sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef", nil)
	name("registry:5000/a/very-long__name.of.an.image-that-has-more-than-forty-letters@sha256:0123", nil)
	name("", nil)
}
