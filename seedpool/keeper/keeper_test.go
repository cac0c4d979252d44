package keeper

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/bake"
	"github.com/sproutrun/sprout/seedpool/imagetest"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"
)

// TestMain is also the keeper: Spawn starts its own executable.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "keeper" {
		if err := beKeeper(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	for arg, be := range map[string]func() error{
		HolderArg: Hold,
		GuardArg:  func() error { return Guard(context.Background()) },
		secondArg: beSecond,
	} {
		if len(os.Args) > 1 && os.Args[1] == arg {
			if err := be(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				os.Exit(1)
			}
			return
		}
	}
	code := m.Run()
	if err := imagetest.Remove(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func beKeeper(args []string) error {
	var c Config
	set := flag.NewFlagSet("keeper", flag.ContinueOnError)
	set.StringVar(&c.Seed, "seed", "", "")
	set.StringVar(&c.Socket, "socket", "", "")
	set.StringVar(&c.CRIU.Path, "criu", "", "")
	if err := set.Parse(args); err != nil {
		return err
	}
	return Main(context.Background(), c)
}

// bed is one baked seed and its keeper.
type bed struct {
	t      *testing.T
	dir    string
	root   string
	img    *imagetest.Image
	upper  string
	baked  *bake.Result
	config Config
	close  func() error
	api.KeeperService
}

// newBed bakes an app of an image and starts a keeper for it.
func newBed(t *testing.T, image, ready string, args ...string) *bed {
	t.Helper()
	b := prepareBed(t, image)
	b.bake(b.img.Spec(t, args...), ready)
	b.spawn()
	return b
}

func prepareBed(t *testing.T, image string) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "keeper-")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, dir: dir, root: "/" + filepath.Base(dir), img: imagetest.Get(t, image)}
	b.config = Config{Seed: "seed", Socket: filepath.Join(dir, "keeper.sock"), CRIU: restore.CRIU{Path: imagetest.Tool(t, "criu")}}
	t.Cleanup(b.remove)
	return b
}

// bake makes the images of a spec with some changes.
func (b *bed) bake(spec *specs.Spec, ready string, changes ...func(*specs.Spec)) {
	b.t.Helper()
	for _, change := range changes {
		change(spec)
	}
	check, err := bake.ParseReadiness(ready)
	if err != nil {
		b.t.Fatal(err)
	}
	check.Timeout = time.Minute
	overlay := b.img.Overlay(b.t)
	b.upper = upperOf(overlay)
	b.baked, err = bake.Run(b.t.Context(), bake.Options{
		ID: "bake", Dir: filepath.Join(b.dir, "bake"), ImagesDir: filepath.Join(b.dir, "images"), Overlay: overlay, Spec: spec,
		Ready: check, RuncPath: imagetest.Tool(b.t, "runc"), CRIU: b.config.CRIU, CgroupPath: b.root + "/bake",
	})
	if err != nil {
		b.t.Fatal(err)
	}
}

// upperOf is the writable layer of an overlay's options.
func upperOf(overlay []string) string {
	for _, option := range overlay {
		if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
			return upper
		}
	}
	return ""
}

func (b *bed) spawn() {
	b.t.Helper()
	if err := Spawn(b.t.Context(), b.config); err != nil {
		log, _ := os.ReadFile(b.config.Socket + ".log")
		b.t.Fatalf("%v\n%s", err, log)
	}
	conn, err := net.Dial("unix", b.config.Socket)
	if err != nil {
		b.t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	b.close = client.Close
	b.KeeperService = api.NewKeeperClient(client)
}

func (b *bed) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	_ = linux.Cgroup{Path: b.root}.Kill()
	if b.KeeperService != nil {
		_, _ = b.Retire(ctx, &api.Empty{})
		_ = b.close()
	}
	if err := (linux.Cgroup{Path: b.root}).WaitEmpty(ctx); err != nil {
		b.t.Error(err)
	}
	for _, err := os.Stat(b.config.Socket); err == nil && ctx.Err() == nil; _, err = os.Stat(b.config.Socket) {
		time.Sleep(5 * time.Millisecond)
	}
	if err := (linux.Cgroup{Path: b.root}).Remove(); err != nil {
		b.t.Error(err)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Error(err)
	}
}

// request asks for one instance in a cgroup and a directory of its own.
func (b *bed) request(id string) *api.MakeRequest {
	b.t.Helper()
	spec, err := json.Marshal(b.baked.Spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := (linux.Cgroup{Path: b.root + "/" + id}).Create(); err != nil {
		b.t.Fatal(err)
	}
	return &api.MakeRequest{
		Id: id, Images: filepath.Join(b.dir, "images"), Overlay: b.img.Overlay(b.t, b.upper), Cgroup: b.root + "/" + id, Spec: spec,
		Dir: filepath.Join(b.dir, id), StdioKeys: b.baked.StdioKeys[:],
	}
}

func (b *bed) make(id string) *api.Instance {
	b.t.Helper()
	resp, err := b.Make(b.t.Context(), b.request(id))
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(b.dir, id, "restore.log"))
		b.t.Fatalf("%v\n%s", err, log)
	}
	for _, p := range resp.Phases {
		b.t.Logf("%s: %-6s %.1f ms", id, p.Name, float64(p.Nanoseconds)/1e6)
	}
	return resp.Instance
}

func TestInstanceStandsFrozenAndRunsWhenThawed(t *testing.T) {
	b := newBed(t, "python-demo", "http://:8080/")
	i := b.make("one")
	c := linux.Cgroup{Path: i.Cgroup}
	if frozen, err := c.Frozen(); err != nil || !frozen {
		t.Fatalf("frozen %v, %v", frozen, err)
	}
	before, err := c.CPU()
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(300 * time.Millisecond)
	if after, err := c.CPU(); err != nil || after != before {
		t.Errorf("ran %s while frozen, %v", after-before, err)
	}
	if err := c.Thaw(); err != nil {
		t.Fatal(err)
	}
	if err := bake.Probe(t.Context(), int(i.Pid), mustReady(t, "http://:8080/")); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(int(i.Pid), syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if e := exitOf(t, i); !syscall.WaitStatus(e.Status).Exited() {
		t.Errorf("exit %+v", e)
	}
}

func mustReady(t *testing.T, text string) bake.Readiness {
	t.Helper()
	r, err := bake.ParseReadiness(text)
	if err != nil {
		t.Fatal(err)
	}
	r.Timeout = 10 * time.Second
	return r
}

// exitOf waits for an instance's exit file.
func exitOf(t *testing.T, i *api.Instance) (e Exit) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		data, err := os.ReadFile(i.ExitFile)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err == nil {
			err = json.Unmarshal(data, &e)
		}
		if err != nil {
			t.Fatal(err)
		}
		return e
	}
	t.Fatal("no exit file")
	return e
}

func TestManyInstancesOfOneImageEndWithTheirOwnStatus(t *testing.T) {
	b := newBed(t, "tiny-demo", "file=/tmp/up", "sh", "-c", `trap 'exit 3' TERM; touch /tmp/up; while :; do sleep 0.05; done`)
	type result struct {
		i   *api.Instance
		err error
	}
	results := make(chan result)
	const n = 6
	for k := range n {
		go func() {
			resp, err := b.Make(t.Context(), b.request(fmt.Sprintf("many-%d", k)))
			results <- result{resp.GetInstance(), err}
		}()
	}
	pids := map[uint32]bool{}
	for range n {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if pids[r.i.Pid] {
			t.Fatalf("pid %d twice", r.i.Pid)
		}
		pids[r.i.Pid] = true
		if err := (linux.Cgroup{Path: r.i.Cgroup}).Thaw(); err != nil {
			t.Fatal(err)
		}
		if len(pids)%2 == 0 {
			if err := syscall.Kill(int(r.i.Pid), syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if e := exitOf(t, r.i); syscall.WaitStatus(e.Status).Signal() != syscall.SIGKILL {
				t.Errorf("status %#x", e.Status)
			}
			continue
		}
		if err := syscall.Kill(int(r.i.Pid), syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if e := exitOf(t, r.i); syscall.WaitStatus(e.Status).ExitStatus() != 3 {
			t.Errorf("status %#x", e.Status)
		}
	}
}

func TestOutputGoesToTheInstancesPipes(t *testing.T) {
	b := newBed(t, "tiny-demo", "log=^tick$", "sh", "-c", `while :; do echo tick; sleep 0.05; done`)
	i := b.make("pipes")
	out, err := linux.ReadFifo(i.Stdout)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	if _, err := b.Forget(t.Context(), &api.InstanceRef{Id: i.Id}); err != nil {
		t.Fatal(err)
	}
	if err := (linux.Cgroup{Path: i.Cgroup}).Thaw(); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 64)
	if n, err := out.Read(buf); err != nil || !bytes.Contains(buf[:n], []byte("tick")) {
		t.Errorf("read %q, %v", buf[:n], err)
	}
}

func TestFailedRestoreLeavesNothingAndSaysWhy(t *testing.T) {
	b := newBed(t, "tiny-demo", "file=/tmp/up", "sh", "-c", "touch /tmp/up; sleep 1000")
	r := b.request("broken")
	r.Images = t.TempDir()
	if err := os.CopyFS(r.Images, os.DirFS(filepath.Join(b.dir, "images"))); err != nil {
		t.Fatal(err)
	}
	names, err := filepath.Glob(filepath.Join(r.Images, "mountpoints-*.img"))
	if err != nil || len(names) != 1 {
		t.Fatal(names, err)
	}
	if err := os.Remove(names[0]); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Make(t.Context(), r); err == nil || !strings.Contains(err.Error(), "Error (") {
		t.Errorf("%v", err)
	}
	if pids, err := (linux.Cgroup{Path: r.Cgroup}).Procs(); err != nil || len(pids) > 0 {
		t.Errorf("left: %v, %v", pids, err)
	}
	b.make("after")
}

func TestSecondKeeperOfASeedIsRefusedAndARetiredOneEndsWhenEmpty(t *testing.T) {
	b := newBed(t, "tiny-demo", "file=/tmp/up", "sh", "-c", "touch /tmp/up; sleep 1000")
	if err := Spawn(t.Context(), b.config); err == nil || !strings.Contains(err.Error(), linux.ErrLocked.Error()) {
		t.Errorf("second keeper: %v", err)
	}
	i := b.make("last")
	if _, err := b.Retire(t.Context(), &api.Empty{}); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Make(t.Context(), b.request("late")); err == nil {
		t.Error("a retired keeper makes instances")
	}
	list, err := b.ListInstances(t.Context(), &api.Empty{})
	if err != nil || len(list.Instances) != 1 {
		t.Fatalf("%v %v", list, err)
	}
	p, err := linux.OpenPidfd(int(list.Pid))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if _, err := b.Kill(t.Context(), &api.InstanceRef{Id: i.Id}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		t.Errorf("the retired keeper goes on: %v", err)
	}
}

func TestContainersCgroupThatIsGoneIsNotMadeAgain(t *testing.T) {
	b := newBed(t, "tiny-demo", "file=/tmp/up", "sh", "-c", "touch /tmp/up; sleep 1000")
	r := b.request("given-up")
	cgroup := linux.Cgroup{Path: r.Cgroup}
	if err := cgroup.Remove(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Make(t.Context(), r); err == nil {
		t.Error("an instance was made for a container that has given up")
	}
	if _, err := cgroup.Frozen(); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the cgroup is there: %v", err)
	}
}
