package seedpool

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// keeperArgs tell a keeper process of the tests where to serve.
type keeperArgs struct{ Socket, Seed string }

// spawnTestKeeper starts one, as keeper.Spawn does the real one.
func spawnTestKeeper(ctx context.Context, socket, seed string) error {
	cmd, err := self("keeper", keeperArgs{socket, seed})
	if err != nil {
		return err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		return err
	}
	defer ours.Close()
	cmd.ExtraFiles = []*os.File{theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	err = cmd.Start()
	_ = theirs.Close()
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	defer context.AfterFunc(ctx, func() { ours.Close() })()
	if _, err := ours.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("test keeper: %w", err)
	}
	return nil
}

// keeperProcess makes each instance a frozen `sleep`. A file <socket>.fail makes Make fail with what it says; with <socket>.loose they are not frozen.
func keeperProcess(args string) error {
	var a keeperArgs
	if err := json.Unmarshal([]byte(args), &a); err != nil {
		return err
	}
	lock, err := linux.Lock(a.Socket + ".lock")
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := os.WriteFile(a.Socket+".pid", []byte(strconv.Itoa(os.Getpid())), 0o600); err != nil {
		return err
	}
	if err := os.Remove(a.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	l, err := net.Listen("unix", a.Socket)
	if err != nil {
		return err
	}
	srv, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	k := &testKeeper{args: a, instances: make(map[string]*testInstance), over: make(chan struct{})}
	api.RegisterKeeperService(srv, k)
	_, _ = os.NewFile(3, "ready").Write([]byte("r")) // who has started it may have been killed
	go func() { _ = srv.Serve(context.Background(), l) }()
	<-k.over
	err = srv.Shutdown(context.Background())
	return errors.Join(err, os.Remove(a.Socket+".pid"), os.Remove(a.Socket+".lock"))
}

type testKeeper struct {
	args keeperArgs
	over chan struct{}
	// op is held while an instance is made or killed: like the real one, who kills waits for what is being made.
	op sync.Mutex

	mu        sync.Mutex
	instances map[string]*testInstance
	making    int
	template  bool
	retired   bool
}

type testInstance struct {
	message *api.Instance
	gone    chan struct{}
}

func (k *testKeeper) Make(ctx context.Context, r *api.MakeRequest) (_ *api.MakeResponse, err error) {
	defer func() { err = errgrpc.ToGRPC(err) }()
	k.mu.Lock()
	k.making++
	k.mu.Unlock()
	defer k.done()
	k.op.Lock()
	defer k.op.Unlock()
	if err := ctx.Err(); err != nil { // whoever asked is dead
		return nil, err
	}
	if said, err := os.ReadFile(k.args.Socket + ".fail"); err == nil {
		return nil, errors.New(strings.TrimSpace(string(said)))
	}
	if r.Template != nil {
		if err := k.makeTemplate(); err != nil {
			return nil, err
		}
	}
	group := linux.Cgroup{Path: r.Cgroup}
	dir, err := group.Open()
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	cmd := exec.Command("/bin/sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	i := &testInstance{gone: make(chan struct{}), message: &api.Instance{Id: r.Id, Pid: uint32(cmd.Process.Pid), Cgroup: r.Cgroup, ExitFile: filepath.Join(r.Dir, "exit")}}
	if i.message.StartTime, err = linux.StartTime(cmd.Process.Pid); err != nil {
		return nil, err
	}
	k.mu.Lock()
	k.instances[r.Id] = i
	k.mu.Unlock()
	go func() {
		_ = cmd.Wait()
		close(i.gone)
		k.mu.Lock()
		delete(k.instances, r.Id)
		k.endLocked()
		k.mu.Unlock()
	}()
	if _, err := os.Stat(k.args.Socket + ".loose"); err == nil {
		return &api.MakeResponse{Instance: i.message}, nil
	}
	return &api.MakeResponse{Instance: i.message}, group.Freeze(ctx)
}

// makeTemplate notes that there is a template, unless a file <socket>.unforkable says why there can be none.
func (k *testKeeper) makeTemplate() error {
	if said, err := os.ReadFile(k.args.Socket + ".unforkable"); err == nil {
		return fmt.Errorf("%s: %w", strings.TrimSpace(string(said)), errdefs.ErrFailedPrecondition)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.template = true
	return nil
}

func (k *testKeeper) MakeTemplate(_ context.Context, r *api.MakeRequest) (*api.Empty, error) {
	if len(r.Overlay) == 0 || r.Template == nil || len(r.Spec) == 0 {
		return nil, errgrpc.ToGRPC(fmt.Errorf("no template can be made of %v: %w", r, errdefs.ErrInvalidArgument))
	}
	return &api.Empty{}, errgrpc.ToGRPC(k.makeTemplate())
}

// GiveUp says that there was all that it is asked to give up.
func (k *testKeeper) GiveUp(_ context.Context, r *api.GiveUpRequest) (*api.GiveUpResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	had := &api.GiveUpResponse{Template: r.Template && k.template, Memory: r.Memory}
	k.template = k.template && !r.Template
	return had, nil
}

func (k *testKeeper) done() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.making--
	k.endLocked()
}

func (k *testKeeper) endLocked() {
	if k.retired && k.making == 0 && len(k.instances) == 0 {
		select {
		case <-k.over:
		default:
			close(k.over)
		}
	}
}

func (k *testKeeper) Forget(context.Context, *api.InstanceRef) (*api.Empty, error) {
	return &api.Empty{}, nil
}

func (k *testKeeper) Kill(ctx context.Context, r *api.InstanceRef) (*api.Empty, error) {
	k.op.Lock()
	defer k.op.Unlock()
	k.mu.Lock()
	i := k.instances[r.Id]
	k.mu.Unlock()
	if i == nil {
		return &api.Empty{}, nil
	}
	if err := (linux.Cgroup{Path: i.message.Cgroup}).Kill(); err != nil {
		return nil, err
	}
	select {
	case <-i.gone:
		return &api.Empty{}, nil
	case <-ctx.Done():
		return nil, errgrpc.ToGRPC(ctx.Err())
	}
}

func (k *testKeeper) ListInstances(context.Context, *api.Empty) (*api.ListInstancesResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	resp := &api.ListInstancesResponse{Pid: int64(os.Getpid()), Template: k.template}
	for _, i := range k.instances {
		resp.Instances = append(resp.Instances, i.message)
	}
	return resp, nil
}

func (k *testKeeper) Retire(context.Context, *api.Empty) (*api.Empty, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.retired = true
	k.endLocked()
	return &api.Empty{}, nil
}

// keeperPID is the process of a seed's keeper.
func (b *bed) keeperPID(s *seed) int {
	b.t.Helper()
	data, err := os.ReadFile(b.config.Paths().KeeperSocket(s.id) + ".pid")
	if err != nil {
		b.t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil {
		b.t.Fatal(err)
	}
	return pid
}

// breakKeeper makes every Make of a seed's keeper fail; an empty text mends it.
func (b *bed) breakKeeper(s *seed, text string) {
	b.t.Helper()
	file := b.config.Paths().KeeperSocket(s.id) + ".fail"
	var err error
	if text == "" {
		err = os.Remove(file)
	} else {
		err = os.WriteFile(file, []byte(text), 0o600)
	}
	if err != nil {
		b.t.Fatal(err)
	}
}

// endKeepers ends every keeper of the bed, also one that has not got as far as to say who it is.
func (b *bed) endKeepers() {
	b.t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		b.t.Fatal(err)
	}
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil || !strings.Contains(string(data), processEnv+"=keeper") || !strings.Contains(string(data), `"`+b.config.RunDir) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			b.t.Fatal(err)
		}
		if kernel, err := os.Readlink(filepath.Join(filepath.Dir(file), "exe")); err == nil && filepath.Base(kernel) != "sleep" {
			killPID(b.t, pid)
		}
	}
}

func killPID(t testing.TB, pid int) {
	pidfd, err := linux.OpenPidfd(pid)
	if errors.Is(err, syscall.ESRCH) {
		return
	}
	if err != nil {
		t.Error(err)
		return
	}
	defer pidfd.Close()
	if err := pidfd.Signal(syscall.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := pidfd.Wait(ctx); err != nil {
		t.Error(err)
	}
}

func (*testKeeper) Dump(context.Context, *api.DumpRequest) (*api.DumpResponse, error) {
	return nil, errors.ErrUnsupported
}

var _ api.KeeperService = (*testKeeper)(nil)
