package seedpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/encoding/protojson"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// serve answers on the bed's API socket, as sproutd does.
func (b *bed) serve() *Client {
	b.t.Helper()
	socket := b.config.Paths().APISocket()
	l, err := net.Listen("unix", socket)
	if err != nil {
		b.t.Fatal(err)
	}
	srv, err := NewServer(b.pool)
	if err != nil {
		b.t.Fatal(err)
	}
	go func() { _ = srv.Serve(context.Background(), l) }()
	c, err := Dial(b.t.Context(), socket)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if err := errors.Join(c.Close(), srv.Shutdown(ctx)); err != nil {
			b.t.Error(err)
		}
	})
	return c
}

func TestLookupSaysWhatThereIsOrWhyThereIsNothing(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 2)
	other := spec()
	other.Process.Args = []string{"other"}
	second := b.seed("ns", "other", keyOf(t, other))
	c := b.serve()
	pristine := b.container("ns", "c1").upperdir
	written := b.container("ns", "c2").upperdir
	write(t, filepath.Join(written, "x"), "x")
	changed := spec()
	changed.Process.Env = append(changed.Process.Env, "NEW=1")
	for name, want := range map[string]struct {
		ns, upper string
		key       *api.Key
		seed      string
		spares    uint32
		reason    Reason
		nearest   string
		differs   []string
	}{
		"it fits":           {ns: "ns", upper: pristine, key: keyOf(t, spec()), seed: "shop", spares: 2},
		"the other fits":    {ns: "ns", upper: pristine, key: keyOf(t, other), seed: "other"},
		"key differs":       {ns: "ns", upper: pristine, key: keyOf(t, changed), reason: ReasonKeyDiffers, nearest: "shop", differs: []string{"env NEW"}},
		"another namespace": {ns: "other", upper: pristine, key: keyOf(t, spec()), reason: ReasonNoSeed},
		"written to":        {ns: "ns", upper: written, key: keyOf(t, spec()), reason: ReasonUpperNotEmpty},
		"not ours":          {ns: "ns", upper: "/nowhere", key: keyOf(t, spec()), reason: ReasonNotOurSnapshotter},
	} {
		t.Run(name, func(t *testing.T) {
			found, err := c.Pool.Lookup(t.Context(), &api.LookupRequest{Namespace: want.ns, Id: "c", Key: want.key, Upperdir: want.upper})
			if err != nil {
				t.Fatal(err)
			}
			if found.Seed.GetName() != want.seed || found.Spares != want.spares || found.Reason != string(want.reason) || found.Nearest != want.nearest {
				t.Errorf("%v", found)
			}
			if diff := cmp.Diff(want.differs, found.Differs); diff != "" {
				t.Error(diff)
			}
		})
	}
	if err := p.removeSeed(t.Context(), second); err != nil {
		t.Fatal(err)
	}
	p.mu.Lock()
	s.meta.Info.Key.Parts[PartImage] = "sha256:older"
	p.mu.Unlock()
	if found := p.lookup("ns", "sha256:image", keyOf(t, spec())); found.Reason != string(ReasonKeyDiffers) || found.Nearest != "shop" || !cmp.Equal(found.Differs, []string{"image"}) {
		t.Errorf("the image was built again: %v", found)
	}
	if found := p.lookup("ns", "sha256:image", keyOf(t, changed)); found.Nearest == "shop" {
		t.Errorf("another image and another environment are another app: %v", found)
	}
}

func TestOfTwoSeedsThatFitTheReadyOneIsTakenThenTheNewer(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	first := b.seed("ns", "first", keyOf(t, spec()))
	b.seed("ns", "second", keyOf(t, spec()))
	if found := p.lookup("ns", "sha256:image", keyOf(t, spec())); found.Seed.GetName() != "second" {
		t.Errorf("%v", found)
	}
	second, err := p.find("ns", "second")
	if err != nil || p.markBad(t.Context(), second, "x") != nil {
		t.Fatal(err)
	}
	if found := p.lookup("ns", "sha256:image", keyOf(t, spec())); found.Seed.GetId() != first.id {
		t.Errorf("%v", found)
	}
}

func TestWrongRequestsAreRefusedWithTheirClass(t *testing.T) {
	b := newBed(t)
	b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	c := b.serve()
	ctx := t.Context()
	key := keyOf(t, spec())
	for name, c := range map[string]struct {
		call func() error
		is   func(error) bool
		says string
	}{
		"lookup without key": {func() error { _, err := c.Pool.Lookup(ctx, &api.LookupRequest{Namespace: "ns", Id: "c"}); return err }, errdefs.IsInvalidArgument, "key"},
		"lookup from elsewhere": {func() error {
			_, err := c.Pool.Lookup(ctx, &api.LookupRequest{Namespace: "../ns", Id: "c", Key: key})
			return err
		}, errdefs.IsInvalidArgument, "../ns"},
		"claim with a path": {func() error {
			_, err := c.Pool.Claim(ctx, &api.ClaimRequest{Namespace: "ns", Id: "a/b", Seed: s.id})
			return err
		}, errdefs.IsInvalidArgument, "a/b"},
		"claim of no seed": {func() error {
			_, err := c.Pool.Claim(ctx, &api.ClaimRequest{Namespace: "ns", Id: "c", Seed: "x"})
			return err
		}, errdefs.IsNotFound, "x"},
		"restore in the root": {func() error {
			_, err := c.Pool.Restore(ctx, &api.RestoreRequest{Namespace: "ns", Id: "c", Seed: s.id, Cgroup: "/"})
			return err
		}, errdefs.IsInvalidArgument, "cgroup"},
		"restore that climbs": {func() error {
			_, err := c.Pool.Restore(ctx, &api.RestoreRequest{Namespace: "ns", Id: "c", Seed: s.id, Cgroup: "/a/../.."})
			return err
		}, errdefs.IsInvalidArgument, "cgroup"},
		"restore in a lost netns": {func() error {
			_, err := c.Pool.Restore(ctx, &api.RestoreRequest{Namespace: "ns", Id: "c", Seed: s.id, Cgroup: "/a", Netns: "x"})
			return err
		}, errdefs.IsInvalidArgument, "network"},
		"bound without instance": {func() error { _, err := c.Pool.Bound(ctx, &api.BoundRequest{Instance: "x"}); return err }, errdefs.IsNotFound, "x"},
		"report of nothing":      {func() error { _, err := c.Pool.Report(ctx, &api.ReportRequest{}); return err }, errdefs.IsInvalidArgument, "start"},
		"seed that is not there": {func() error { _, err := c.Seeds.InspectSeed(ctx, &api.SeedRef{Namespace: "ns", Name: "x"}); return err }, errdefs.IsNotFound, "seed ls"},
		"pool too large": {func() error {
			_, err := c.Seeds.SetPool(ctx, &api.SetPoolRequest{Namespace: "ns", Seed: "shop", Spares: 1 << 20})
			return err
		}, errdefs.IsInvalidArgument, "32767"},
		"list of no namespace": {func() error { _, err := c.Seeds.ListSeeds(ctx, &api.ListSeedsRequest{Namespace: "a b"}); return err }, errdefs.IsInvalidArgument, "a b"},
	} {
		t.Run(name, func(t *testing.T) {
			err := errgrpc.ToNative(c.call())
			if err == nil || !c.is(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v", err)
			}
		})
	}
}

func bakeRequest(t *testing.T) *api.BakeRequest {
	t.Helper()
	data, err := json.Marshal(spec())
	if err != nil {
		t.Fatal(err)
	}
	return &api.BakeRequest{Namespace: "ns", Name: "shop", ChainId: "sha256:image", Spec: data, Ready: &api.Readiness{Kind: "tcp", Target: ":80"}}
}

func TestABakeThatCannotWorkIsRefusedBeforeAnythingIsMade(t *testing.T) {
	b := newBed(t)
	b.recovered()
	c := b.serve()
	for name, want := range map[string]struct {
		change func(r *api.BakeRequest)
		says   string
	}{
		"name":       {func(r *api.BakeRequest) { r.Name = "../x" }, "seed name"},
		"no name":    {func(r *api.BakeRequest) { r.Name = "" }, "seed name"},
		"long name":  {func(r *api.BakeRequest) { r.Name = strings.Repeat("x", 65) }, "64"},
		"namespace":  {func(r *api.BakeRequest) { r.Namespace = "" }, "namespace"},
		"mode":       {func(r *api.BakeRequest) { r.Mode = "copy" }, "clone"},
		"spec":       {func(r *api.BakeRequest) { r.Spec = []byte("{") }, "spec"},
		"empty spec": {func(r *api.BakeRequest) { r.Spec = []byte("{}") }, "process"},
		"readiness":  {func(r *api.BakeRequest) { r.Ready = &api.Readiness{Kind: "ping"} }, "http://"},
		"none":       {func(r *api.BakeRequest) { r.Ready = nil }, "http://"},
		"late mount": {func(r *api.BakeRequest) { r.LateMounts = []string{"data"} }, "late mount"},
		"late root":  {func(r *api.BakeRequest) { r.LateMounts = []string{"/a/.."} }, "late mount"},
	} {
		t.Run(name, func(t *testing.T) {
			r := bakeRequest(t)
			want.change(r)
			err := receive(t, c, r)
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), want.says) {
				t.Errorf("%v", err)
			}
		})
	}
	b.nothingLeft()
}

// receive reads the events of a bake to its end.
func receive(t *testing.T, c *Client, r *api.BakeRequest) error {
	t.Helper()
	stream, err := c.Seeds.Bake(t.Context(), r)
	for err == nil {
		_, err = stream.Recv()
	}
	if errors.Is(err, io.EOF) {
		return nil
	}
	return errgrpc.ToNative(err)
}

func TestOneNameIsBakedOnceAtATime(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	done, err := p.beginBake("ns", "shop")
	if err != nil {
		t.Fatal(err)
	}
	if err := receive(t, b.serve(), bakeRequest(t)); !errdefs.IsAlreadyExists(err) || !strings.Contains(err.Error(), "wait until it has ended") {
		t.Errorf("%v", err)
	}
	if other, err := p.beginBake("other", "shop"); err != nil {
		t.Errorf("the same name in another namespace: %v", err)
	} else {
		other()
	}
	done()
	if again, err := p.beginBake("ns", "shop"); err != nil {
		t.Error(err)
	} else {
		again()
	}
}

func TestABakeThatFailsLeavesNothing(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	r := bakeRequest(t)
	r.Mode = ModeClone // the bake gets as far as its first container: there are no layers to mount
	if err := receive(t, b.serve(), r); err == nil || !strings.Contains(err.Error(), "boot container") {
		t.Errorf("baked: %v", err)
	}
	if left := names(t, b.rootfs.dir("bakes")); len(left) > 0 {
		t.Errorf("snapshots %v", left)
	}
	if left := names(t, p.paths.BakesDir()); len(left) > 0 {
		t.Errorf("bakes %v", left)
	}
	b.nothingLeft()
}

func TestStartsAreListedAndCounted(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	c := b.serve()
	record := func(ns, id string, at int64, shim uint32) *api.Start {
		start := &api.Start{
			Namespace: ns, Id: id, Rung: "restore", AtUnixNanoseconds: at, ShimPid: shim,
			Fallbacks: []*api.Fallback{{Rung: "thaw", Reason: "no-spare"}}, Phases: []*api.Phase{{Name: "lookup", Nanoseconds: 1e6}},
		}
		data, err := protojson.Marshal(start)
		if err != nil {
			t.Fatal(err)
		}
		file := p.paths.StartRecord(ns, id)
		if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
			t.Fatal(err)
		}
		write(t, file, string(data))
		return start
	}
	mine := uint32(os.Getpid())
	second, first, other := record("ns", "second", 2, mine), record("ns", "first", 1, mine), record("other", "x", 3, 1<<22-1)
	write(t, p.paths.StartRecord("ns", "torn"), "{")
	list := func(ns, id string) (ids []string) {
		t.Helper()
		got, err := c.Seeds.ListStarts(t.Context(), &api.ListStartsRequest{Namespace: ns, Id: id})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range got.Starts {
			ids = append(ids, s.Id)
		}
		return ids
	}
	if diff := cmp.Diff([]string{"first", "second"}, list("ns", "")); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"second"}, list("", "second")); diff != "" {
		t.Error(diff)
	}
	if err := p.orderStarts(); err != nil || list("other", "") != nil || len(list("ns", "")) != 2 {
		t.Errorf("the record of a dead shim stays, or that of a living one goes: %v", err)
	}
	for _, s := range []*api.Start{first, second, other} {
		if _, err := c.Pool.Report(t.Context(), &api.ReportRequest{Start: s}); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Pool.Report(t.Context(), &api.ReportRequest{Start: &api.Start{Namespace: "ns", Id: "y", Rung: "made up", Fallbacks: []*api.Fallback{{Reason: "too"}}}}); err != nil {
		t.Fatal(err)
	}
	b.seed("ns", "shop", keyOf(t, spec()))
	answer := httptest.NewRecorder()
	p.MetricsHandler().ServeHTTP(answer, httptest.NewRequest("GET", "/metrics", nil))
	for _, line := range []string{
		`sprout_start_total{reason="no-spare",rung="restore"} 3`, `sprout_start_total{reason="other",rung="other"} 1`,
		`sprout_fallback_total{reason="no-spare",rung="thaw"} 3`, `sprout_start_seconds_count{phase="lookup",rung="restore"} 3`,
		`sprout_pool_spares{namespace="ns",seed="shop",state="want"} 0`, `sprout_seeds{phase="ready"} 1`,
	} {
		if !strings.Contains(answer.Body.String(), line) {
			t.Errorf("%s is missing in\n%s", line, answer.Body)
		}
	}
}

func TestClosingFinishesTheRequestsOfStarts(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	s := b.seed("ns", "shop", keyOf(t, spec()))
	b.fill(s, 1)
	adopting, goOn := make(chan struct{}), make(chan struct{})
	p.point = func(name string) {
		if name == "spare claimed" {
			close(adopting)
			<-goOn
		}
	}
	who := b.container("ns", "c1")
	var wg sync.WaitGroup
	var err error
	sv := &service{pool: p}
	wg.Go(func() {
		_, err = sv.Claim(t.Context(), &api.ClaimRequest{Namespace: "ns", Id: "c1", Seed: s.id, Upperdir: who.upperdir})
	})
	<-adopting
	closed := make(chan struct{})
	go func() {
		b.close()
		close(closed)
	}()
	select {
	case <-closed:
		t.Error("closed over a claim")
	case <-time.After(50 * time.Millisecond):
	}
	close(goOn)
	wg.Wait()
	<-closed
	if err != nil {
		t.Errorf("the claim failed: %v", err)
	}
}

// strangerProcess asks for the seeds as another user.
func strangerProcess(socket string) error {
	socket = strings.Trim(socket, `"`)
	c, err := Dial(context.Background(), socket)
	if err != nil {
		return fmt.Errorf("not even connected: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if _, err := c.Seeds.ListSeeds(ctx, &api.ListSeedsRequest{}); err == nil {
		return errors.New("answered")
	}
	fmt.Println("refused")
	return c.Close()
}

func TestAnotherUserIsRefusedEvenIfTheSocketLetsHimIn(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	b.serve()
	socket := p.paths.APISocket()
	for path, mode := range map[string]os.FileMode{socket: 0o666, p.paths.RunDir: 0o755, filepath.Dir(p.paths.RunDir): 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	// The test binary lies where only root may go.
	own := filepath.Join(filepath.Dir(p.paths.RunDir), "stranger")
	data, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(own, data, 0o755)
	}
	cmd, selfErr := self("stranger", socket)
	if err := errors.Join(err, selfErr); err != nil {
		t.Fatal(err)
	}
	cmd.Path = own
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	if out, err := cmd.Output(); err != nil || !strings.Contains(string(out), "refused") {
		t.Errorf("%v: %s", err, out)
	}
}

func TestEveryReasonHasAHint(t *testing.T) {
	for reason, hint := range hints {
		if strings.TrimSpace(hint) == "" || strings.ToLower(string(reason)) != string(reason) {
			t.Errorf("%s: %q", reason, hint)
		}
	}
	if Reason("made up").Hint() != "" {
		t.Error("a hint for nothing")
	}
}

func TestAnIllegalMoveIsRefused(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	i, err := p.begin("x", nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.change(i, phaseBound, nil); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "making to bound") {
		t.Errorf("%v", err)
	}
	for from, next := range moves {
		if from != phaseDying && canMove("i", from, phaseDying) != nil {
			t.Errorf("%s cannot be destroyed", from)
		}
		for _, to := range next {
			if to == phaseMaking {
				t.Errorf("%s goes back to the start", from)
			}
		}
	}
	if err := p.destroy(t.Context(), i, fatePlain); err != nil {
		t.Error(err)
	}
}

func TestTheImageTakesItsSeedsWithIt(t *testing.T) {
	b := newBed(t)
	p := b.recovered()
	b.seed("ns", "shop", keyOf(t, spec()))
	p.ImageRemoved("sha256:other")
	p.ImageRemoved("sha256:image")
	b.eventually("the seed to go", func() error {
		if _, err := p.find("ns", "shop"); err == nil {
			return errors.New("it is there")
		}
		return nil
	})
	b.nothingLeft()
}
