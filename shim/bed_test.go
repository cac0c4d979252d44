package shim

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/status"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

const bedNamespace = "bed"

// bed is what the tests of woken tasks stand on: instances that the real runc made, frozen by the real kernel; a sproutd and a keeper
// that only hand them out; clients' ends of containerd's named pipes.
type bed struct {
	t     *testing.T
	dir   string
	runc  *runc.Runc
	tasks *wokenTasks
	pool  *bedPool

	mu     sync.Mutex
	events []any
	more   chan struct{}
}

func newBed(t *testing.T, app string) *bed {
	t.Helper()
	dir := t.TempDir()
	t.Setenv(seedpool.RunDirEnv, dir)
	b := &bed{t: t, dir: dir, more: make(chan struct{}, 1), runc: &runc.Runc{Command: tool(t, "runc"), Root: filepath.Join(dir, "runc-spares")}}
	b.pool = &bedPool{bed: b, app: app, spares: 1, have: make(map[string]*bedInstance)}
	b.pool.serve()
	b.tasks = newWokenTasks(b.publish, seedpool.ShimParams{Namespace: bedNamespace}, nil)
	t.Cleanup(func() {
		if err := b.tasks.close(); err != nil {
			t.Error(err)
		}
		b.clean()
	})
	return b
}

func (b *bed) ctx() context.Context {
	return namespaces.WithNamespace(b.t.Context(), bedNamespace)
}

func (b *bed) publish(event any) {
	b.mu.Lock()
	b.events = append(b.events, event)
	b.mu.Unlock()
	select {
	case b.more <- struct{}{}:
	default:
	}
}

// eventNames are the events so far, by their short names.
func (b *bed) eventNames() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var names []string
	for _, e := range b.events {
		names = append(names, fmt.Sprintf("%T", e)[len("*events."):])
	}
	return names
}

// spec is the container: host's programs on an empty root, docker's capabilities, no new privileges.
func (b *bed) spec(cgroup string) *specs.Spec {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_SETUID", "CAP_SETGID", "CAP_NET_BIND_SERVICE"}
	limit := int64(256 << 20)
	s := &specs.Spec{
		Version:  specs.Version,
		Hostname: "baked",
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", b.pool.app}, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin"},
			NoNewPrivileges: true,
			Capabilities:    &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
			Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 512, Hard: 1024}},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs"},
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
		},
		Linux: &specs.Linux{
			CgroupsPath: cgroup,
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			Resources: &specs.LinuxResources{
				Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}},
			},
		},
	}
	if !onV2Only() {
		s.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	for _, dir := range []string{"/usr", "/bin", "/lib", "/lib64"} {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: dir, Type: "bind", Source: dir, Options: []string{"rbind", "ro"}})
	}
	return s
}

func (b *bed) cgroup(name string) string {
	return "/sprout-bed-" + filepath.Base(filepath.Dir(b.dir)) + "/" + name
}

// bundle writes a bundle with the spec.
func (b *bed) bundle(id string, spec *specs.Spec) string {
	b.t.Helper()
	dir := filepath.Join(b.dir, "bundles", id)
	for _, name := range []string{"rootfs", "work"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o711); err != nil {
			b.t.Fatal(err)
		}
	}
	data, err := json.Marshal(spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

// request is the CreateTask of a container with the spec, its streams on named pipes of the bed.
func (b *bed) request(id string, spec *specs.Spec) *taskAPI.CreateTaskRequest {
	b.t.Helper()
	opts, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: tool(b.t, "runc"), Root: filepath.Join(b.dir, "runc")})
	if err != nil {
		b.t.Fatal(err)
	}
	r := &taskAPI.CreateTaskRequest{
		ID: id, Bundle: b.bundle(id, spec), Options: opts,
		Rootfs: []*types.Mount{{Type: "overlay", Options: []string{"upperdir=" + filepath.Join(b.dir, "upper", id)}}},
	}
	for name, path := range map[string]*string{"stdin": &r.Stdin, "stdout": &r.Stdout, "stderr": &r.Stderr} {
		*path = filepath.Join(b.dir, id+"-"+name)
		if err := linux.MakeFifo(*path, 0o600); err != nil {
			b.t.Fatal(err)
		}
	}
	return r
}

// woken creates a container and fails the test when it was not woken by the rung.
func (b *bed) woken(r *taskAPI.CreateTaskRequest, rung seedpool.Rung) *wokenTask {
	b.t.Helper()
	resp, rec, err := b.tasks.create(b.ctx(), r)
	if err != nil {
		b.t.Fatal(err)
	}
	if resp == nil {
		b.t.Fatalf("create %s: went cold: %v", r.ID, rec.start.Fallbacks)
	}
	if rec.start.Rung != string(rung) {
		b.t.Fatalf("create %s: woken by %s, want %s: %v", r.ID, rec.start.Rung, rung, rec.start.Fallbacks)
	}
	return b.tasks.get(r.ID)
}

// lines reads the lines of a client's end of an output pipe.
func (b *bed) lines(path string) *bufio.Reader {
	b.t.Helper()
	f, err := linux.HoldFifo(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { mustClose(b.t, f) })
	return bufio.NewReader(f)
}

func (b *bed) want(r *bufio.Reader, want string) {
	b.t.Helper()
	got := make(chan string, 1)
	go func() {
		line, err := r.ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			line = err.Error()
		}
		got <- line
	}()
	select {
	case line := <-got:
		if line != want+"\n" {
			b.t.Fatalf("app wrote %q, want %q", line, want)
		}
	case <-time.After(10 * time.Second):
		b.t.Fatalf("app wrote nothing, want %q", want)
	}
}

// oci runs a command of the real runc on the bed's containers.
func (b *bed) oci(args ...string) string {
	b.t.Helper()
	out, err := b.tryOCI(args...)
	if err != nil {
		b.t.Fatalf("runc %v: %v: %s", args, err, out)
	}
	return out
}

func (b *bed) tryOCI(args ...string) (string, error) {
	root := filepath.Join(b.dir, "runc", bedNamespace)
	return child(b.t, tool(b.t, "runc"), append([]string{"--root", root}, args...)...)
}

// child runs a program to its end under the reaper.
func child(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	cmd := exec.Command(name, args...)
	var out safeBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	exits, err := startChild(cmd)
	if err != nil {
		return "", err
	}
	status, err := runc.Monitor.Wait(cmd, exits)
	if err == nil && status != 0 {
		err = fmt.Errorf("exit status %d", status)
	}
	return out.String(), err
}

type safeBuffer struct {
	mu  sync.Mutex
	buf []byte
}

func (b *safeBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.buf = append(b.buf, p...)
	return len(p), nil
}

func (b *safeBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.buf)
}

// sleeper puts a process of the test into a cgroup; it ends with the bed.
func (b *bed) sleeper(cgroup linux.Cgroup) {
	b.t.Helper()
	cmd := exec.Command("/bin/sleep", "1000")
	exits, err := startChild(cmd)
	if err != nil {
		b.t.Fatal(err)
	}
	// A subscriber that does not read would hold up the reaper.
	reaper.Default.Unsubscribe(exits)
	if err := cgroup.Attach(cmd.Process.Pid); err != nil {
		b.t.Fatal(err)
	}
}

// clean ends what a test left, and fails it when the code under test should have done so.
func (b *bed) clean() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	top := linux.Cgroup{Path: filepath.Dir(b.cgroup("x"))}
	if err := top.Kill(); err != nil {
		b.t.Error(err)
	}
	if err := top.WaitEmpty(ctx); err != nil && !errors.Is(err, os.ErrNotExist) {
		b.t.Error(err)
	}
	if err := top.Remove(); err != nil {
		b.t.Error(err)
	}
}

// bedInstance is an instance and the keeper's ends of its pipes.
type bedInstance struct {
	*api.Instance
	holds []*os.File
}

// bedPool is sproutd and keeper in one.
type bedPool struct {
	bed *bed
	app string
	// alter changes the spec of the instances that are made, so that they are not what they should be.
	alter  func(*specs.Spec)
	spares uint32
	// forks: its seed can be cloned.
	forks bool
	fail  map[string]error
	// afterMake is called with each instance before it is handed out; reported gets each report.
	afterMake func(*api.Instance) error
	reported  chan *api.Start
	onClaim   func() error
	// noStreams makes instances whose streams are /dev/null: nobody hears "ready".
	noStreams bool
	server    *ttrpc.Server
	listener  *bedListener

	mu        sync.Mutex
	count     int
	have      map[string]*bedInstance
	bound     []string
	discarded []string
	forgotten []string
}

func (p *bedPool) serve() {
	t := p.bed.t
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	p.server = server
	api.RegisterPoolService(server, p)
	api.RegisterKeeperService(server, bedKeeper{p})
	socket := seedpool.PathsFromEnv().APISocket()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	p.listener = &bedListener{Listener: l}
	go func() { _ = server.Serve(context.Background(), p.listener) }()
	t.Cleanup(func() { mustClose(t, server) })
}

func (p *bedPool) failure(rpc string) error {
	err := p.fail[rpc]
	if _, ok := status.FromError(err); ok {
		return err
	}
	return errgrpc.ToGRPC(err)
}

// bedListener can cut its connections as the death of a process does: nothing is answered any more, and nobody can connect.
type bedListener struct {
	net.Listener

	mu    sync.Mutex
	conns []net.Conn
}

func (l *bedListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil {
		l.conns = append(l.conns, c)
	}
	return c, err
}

func (l *bedListener) die() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	errs := []error{l.Close()}
	for _, c := range l.conns {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func (p *bedPool) Lookup(_ context.Context, r *api.LookupRequest) (*api.LookupResponse, error) {
	seed := &api.SeedInfo{Id: "s1", Name: "bed", Key: r.Key}
	return &api.LookupResponse{Seed: seed, Spares: p.spares, Forks: p.forks, Template: p.forks}, p.failure("Lookup")
}

func (p *bedPool) Claim(_ context.Context, r *api.ClaimRequest) (*api.ClaimResponse, error) {
	if err := p.failure("Reserve"); r.Key != nil && err != nil {
		return nil, err
	}
	if p.onClaim != nil {
		return nil, p.onClaim()
	}
	if err := p.failure("Claim"); err != nil {
		return nil, err
	}
	inst, err := p.make("")
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	resp := &api.ClaimResponse{Instance: inst}
	if r.Key != nil {
		resp.Seed = &api.SeedInfo{Id: "s1", Name: "bed", Key: r.Key}
	}
	return resp, nil
}

func (p *bedPool) Restore(_ context.Context, r *api.RestoreRequest) (*api.RestoreResponse, error) {
	if err := p.failure("Restore"); err != nil {
		return nil, err
	}
	inst, err := p.make(r.Netns)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	to := linux.Cgroup{Path: r.Cgroup}
	pids, err := linux.Cgroup{Path: inst.Cgroup}.Procs()
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	for _, pid := range pids {
		if err := to.Attach(pid); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	if err := (linux.Cgroup{Path: inst.Cgroup}).Remove(); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	inst.Cgroup = r.Cgroup
	return &api.RestoreResponse{Instance: inst, Phases: []*api.Phase{{Name: "criu", Nanoseconds: 1}}}, nil
}

// make boots the app with runc, waits for its first line, which must be "ready", freezes it and makes runc forget it.
func (p *bedPool) make(netns string) (*api.Instance, error) {
	p.mu.Lock()
	p.count++
	id := fmt.Sprintf("i%d", p.count)
	p.mu.Unlock()
	b := p.bed
	cgroup := b.cgroup("spares/" + id)
	spec := b.spec(cgroup)
	if p.alter != nil {
		p.alter(spec)
	}
	if i := slices.IndexFunc(spec.Linux.Namespaces, func(ns specs.LinuxNamespace) bool { return ns.Type == "network" }); netns == hostNamespace("network") {
		spec.Linux.Namespaces = slices.Delete(spec.Linux.Namespaces, i, i+1)
	} else {
		spec.Linux.Namespaces[i].Path = netns
	}
	dir := filepath.Join(b.dir, "instances", id)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	inst := &bedInstance{Instance: &api.Instance{
		Id: id, Seed: "s1", Cgroup: cgroup, Keeper: seedpool.PathsFromEnv().APISocket(), ExitFile: filepath.Join(dir, "exit"),
		Stdin: filepath.Join(dir, "0"), Stdout: filepath.Join(dir, "1"), Stderr: filepath.Join(dir, "2"),
	}}
	if p.noStreams {
		inst.Stdin, inst.Stdout, inst.Stderr = "", "", ""
	}
	streams, err := p.streams(inst)
	if err != nil {
		return nil, err
	}
	defer streams.Close()
	pidFile := filepath.Join(dir, "pid")
	if err := b.runc.Create(context.Background(), id, b.bundle(id, spec), &runc.CreateOpts{IO: streams, PidFile: pidFile}); err != nil {
		return nil, err
	}
	if err := b.runc.Start(context.Background(), id); err != nil {
		return nil, err
	}
	if p.noStreams {
		awaitExec(b.t, pidFile)
	} else {
		if line, err := bufio.NewReaderSize(inst.holds[1], 16).ReadString('\n'); err != nil || line != "ready\n" {
			return nil, fmt.Errorf("boot instance: %q: %w", line, err)
		}
	}
	if err := p.freeze(inst, pidFile); err != nil || p.afterMake == nil {
		return inst.Instance, err
	}
	return inst.Instance, p.afterMake(inst.Instance)
}

// awaitExec waits until a container's first process is the app, not runc: the start only lets it go on.
func awaitExec(t *testing.T, pidFile string) {
	pid, err := os.ReadFile(pidFile)
	if err != nil {
		t.Error(err)
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if comm, err := os.ReadFile(fmt.Sprintf("/proc/%s/comm", pid)); err != nil || !strings.HasPrefix(string(comm), "runc") {
			return
		}
	}
	t.Error("runc has not become the app")
}

// streams makes the pipes of an instance, which the keeper holds, and opens the instance's ends.
func (p *bedPool) streams(inst *bedInstance) (streams pipes, err error) {
	for i, path := range []string{inst.Stdin, inst.Stdout, inst.Stderr} {
		if path == "" {
			if streams[i], err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
				return streams, err
			}
			continue
		}
		if err := linux.MakeFifo(path, 0o600); err != nil {
			return streams, err
		}
		hold, err := linux.HoldFifo(path)
		if err != nil {
			return streams, err
		}
		inst.holds = append(inst.holds, hold)
		if streams[i], err = linux.InheritFifo(path, i > 0); err != nil {
			return streams, err
		}
	}
	return streams, nil
}

func (p *bedPool) freeze(inst *bedInstance, pidFile string) error {
	pid, err := runc.ReadPidFile(pidFile)
	if err != nil {
		return err
	}
	inst.Pid = uint32(pid)
	if inst.StartTime, err = linux.StartTime(pid); err != nil {
		return err
	}
	if err := (linux.Cgroup{Path: inst.Cgroup}).Freeze(context.Background()); err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.have[inst.Id] = inst
	return os.RemoveAll(filepath.Join(p.bed.runc.Root, inst.Id))
}

func (p *bedPool) Adopted(context.Context, *api.AdoptedRequest) (*api.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return &api.Empty{}, p.failure("Adopted")
}

func (p *bedPool) Sleep(context.Context, *api.SleepRequest) (*api.SleepResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (p *bedPool) Wake(context.Context, *api.WakeRequest) (*api.RestoreResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (p *bedPool) Bound(_ context.Context, r *api.BoundRequest) (*api.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bound = append(p.bound, r.Instance)
	if err := p.failure("Bound"); err != nil {
		return nil, err
	}
	inst := p.have[r.Instance]
	if inst.Cgroup != p.bed.cgroup("c1") {
		return &api.Empty{}, (linux.Cgroup{Path: inst.Cgroup}).Remove()
	}
	return &api.Empty{}, nil
}

func (p *bedPool) Discard(ctx context.Context, r *api.DiscardRequest) (*api.Empty, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.discarded = append(p.discarded, r.Instance)
	inst := p.have[r.Instance]
	if inst == nil {
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	if err := signalPID(int(inst.Pid), sigkill); err != nil && !ended(err) {
		return nil, errgrpc.ToGRPC(err)
	}
	p.release(inst)
	group := linux.Cgroup{Path: inst.Cgroup}
	if err := group.WaitEmpty(ctx); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, errgrpc.ToGRPC(err)
	}
	return &api.Empty{}, errgrpc.ToGRPC(group.Remove())
}

func (p *bedPool) Report(_ context.Context, r *api.ReportRequest) (*api.ReportResponse, error) {
	if p.reported != nil {
		p.reported <- r.Start
	}
	return &api.ReportResponse{}, nil
}

// release closes the keeper's ends of an instance's pipes.
func (p *bedPool) release(inst *bedInstance) {
	for _, f := range inst.holds {
		mustClose(p.bed.t, f)
	}
	inst.holds = nil
}

type bedKeeper struct{ pool *bedPool }

func (k bedKeeper) Forget(_ context.Context, r *api.InstanceRef) (*api.Empty, error) {
	k.pool.mu.Lock()
	defer k.pool.mu.Unlock()
	k.pool.forgotten = append(k.pool.forgotten, r.Id)
	k.pool.release(k.pool.have[r.Id])
	return &api.Empty{}, nil
}

func (bedKeeper) Make(context.Context, *api.MakeRequest) (*api.MakeResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (bedKeeper) Dump(context.Context, *api.DumpRequest) (*api.DumpResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (bedKeeper) Kill(context.Context, *api.InstanceRef) (*api.Empty, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (bedKeeper) ListInstances(context.Context, *api.Empty) (*api.ListInstancesResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (bedKeeper) MakeTemplate(context.Context, *api.MakeRequest) (*api.Empty, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (bedKeeper) GiveUp(context.Context, *api.GiveUpRequest) (*api.GiveUpResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

func (bedKeeper) Retire(context.Context, *api.Empty) (*api.Empty, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotImplemented)
}

// pipes are the child's ends of an instance's standard streams, as runc.IO.
type pipes [3]*os.File

func (p pipes) Close() error {
	return errors.Join(p[0].Close(), p[1].Close(), p[2].Close())
}
func (pipes) Stdin() io.WriteCloser { return nil }
func (pipes) Stdout() io.ReadCloser { return nil }
func (pipes) Stderr() io.ReadCloser { return nil }
func (p pipes) Set(cmd *exec.Cmd)   { cmd.Stdin, cmd.Stdout, cmd.Stderr = p[0], p[1], p[2] }

// writer writes lines into a client's end of an input pipe.
func (b *bed) writer(path string) func(line string) {
	b.t.Helper()
	f, err := linux.HoldFifo(path)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { mustClose(b.t, f) })
	return func(line string) {
		b.t.Helper()
		if _, err := io.WriteString(f, line+"\n"); err != nil {
			b.t.Fatal(err)
		}
	}
}

// leftovers are the instances' directories, runc states and cgroups that are still there.
func (b *bed) leftovers() ([]string, error) {
	root, err := linux.UnifiedRoot()
	if err != nil {
		return nil, err
	}
	var left []string
	for _, pattern := range []string{
		filepath.Join(b.dir, "instances", "*"),
		filepath.Join(b.dir, "runc", bedNamespace, "*"),
		filepath.Join(b.dir, "starts", "*", "*"),
		filepath.Join(root, filepath.Dir(b.cgroup("x")), "c*"),
		filepath.Join(root, filepath.Dir(b.cgroup("x")), "spares", "i*"),
	} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, f := range found {
			if st, err := os.Stat(f); err == nil && (st.IsDir() || filepath.Ext(f) == ".json") {
				left = append(left, f)
			}
		}
	}
	return left, nil
}
