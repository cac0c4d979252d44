package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	snapshotsapi "github.com/containerd/containerd/api/services/snapshots/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/sproutrun/sprout/seedpool"
	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// TestMain makes the test binary sproutd itself: what is tested is the whole process.
func TestMain(m *testing.M) {
	if os.Getenv("SPROUTD_TEST_MAIN") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// process is a sproutd in directories of its own.
type process struct {
	t     *testing.T
	dir   string
	paths seedpool.Paths
	cmd   *exec.Cmd
	log   bytes.Buffer
	ready net.PacketConn
}

func newDaemon(t *testing.T) *process {
	t.Helper()
	dir, err := os.MkdirTemp("", "sd")
	if err != nil {
		t.Fatal(err)
	}
	d := &process{t: t, dir: dir, paths: seedpool.Paths{RunDir: filepath.Join(dir, "run"), StateDir: filepath.Join(dir, "lib")}}
	if d.ready, err = net.ListenPacket("unixgram", filepath.Join(dir, "notify")); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("run_dir = %q\nstate_dir = %q\ncgroup_root = %q\nidle_shims = 0\n", d.paths.RunDir, d.paths.StateDir, "/"+filepath.Base(dir))
	if err := os.WriteFile(filepath.Join(dir, "sproutd.toml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd != nil {
			_ = d.cmd.Process.Kill()
			_ = d.cmd.Wait()
		}
		_ = d.ready.Close()
		_ = os.RemoveAll(dir)
	})
	return d
}

func (d *process) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "SPROUTD_TEST_MAIN=1", "NOTIFY_SOCKET="+filepath.Join(d.dir, "notify"))
	return cmd
}

// start starts sproutd and waits until it tells systemd that it is ready.
func (d *process) start() {
	d.t.Helper()
	d.cmd = d.command("--config", filepath.Join(d.dir, "sproutd.toml"))
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.told("READY=1")
}

// told waits for a word to systemd.
func (d *process) told(want string) {
	d.t.Helper()
	if err := d.ready.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		d.t.Fatal(err)
	}
	buf := make([]byte, 100)
	n, _, err := d.ready.ReadFrom(buf)
	if err != nil || string(buf[:n]) != want {
		d.t.Fatalf("systemd was told %q, %v, want %s\n%s", buf[:n], err, want, d.log.String())
	}
}

// serves makes sure that every socket answers.
func (d *process) serves() {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 10*time.Second)
	defer cancel()
	c, err := seedpool.Dial(ctx, d.paths.APISocket())
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	if v, err := c.Seeds.Version(ctx, &api.Empty{}); err != nil || v.Pid != int64(d.cmd.Process.Pid) || v.Version != seedpool.Version {
		d.t.Errorf("version %v, %v", v, err)
	}
	conn, err := grpc.NewClient("unix://"+d.paths.SnapshotterSocket(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		d.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := snapshotsapi.NewSnapshotsClient(conn).Prepare(ctx, &snapshotsapi.PrepareSnapshotRequest{Key: fmt.Sprintf("test/1/%d", time.Now().UnixNano())}); err != nil {
		d.t.Errorf("prepare snapshot: %v", err)
	}
	web := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", d.paths.MetricsSocket())
	}}}
	defer web.CloseIdleConnections()
	answer, err := web.Get("http://sproutd/metrics")
	if err != nil {
		d.t.Fatal(err)
	}
	defer answer.Body.Close()
	if text, err := io.ReadAll(answer.Body); err != nil || !strings.Contains(string(text), "sprout_seeds") {
		d.t.Errorf("metrics %q, %v", text, err)
	}
	launcher, err := net.Dial("unix", d.paths.AssignSocket())
	if err != nil {
		d.t.Fatal(err)
	}
	defer launcher.Close()
	if _, err := launcher.Write([]byte(`{"op":"assign","address":"unix:///x"}` + "\n")); err != nil {
		d.t.Fatal(err)
	}
	if text, err := io.ReadAll(launcher); err != nil || !strings.Contains(string(text), "no shim is idle") {
		d.t.Errorf("assign %q, %v", text, err)
	}
}

func TestSproutdServesEndsWhenAskedAndLeavesNoSocket(t *testing.T) {
	d := newDaemon(t)
	d.start()
	d.serves()
	for _, socket := range []string{d.paths.APISocket(), d.paths.SnapshotterSocket(), d.paths.AssignSocket(), d.paths.MetricsSocket()} {
		if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v, want root alone", socket, info.Mode(), err)
		}
	}
	for _, dir := range []string{d.paths.RunDir, d.paths.StateDir} {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
			t.Errorf("%s: %v, %v, want root alone", dir, info.Mode(), err)
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.told("STOPPING=1")
	if err := d.cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, d.log.String())
	}
	if left, _ := filepath.Glob(filepath.Join(d.paths.RunDir, "*.sock")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestSproutdComesBackAfterKill9(t *testing.T) {
	d := newDaemon(t)
	for range 3 {
		d.start()
		d.serves()
		if err := d.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = d.cmd.Wait()
	}
}

func TestASecondSproutdIsRefusedAndDoesNotDisturbTheFirst(t *testing.T) {
	d := newDaemon(t)
	d.start()
	out, err := d.command("--config", filepath.Join(d.dir, "sproutd.toml")).CombinedOutput()
	if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() != 1 || !strings.Contains(string(out), "sproutd.lock") {
		t.Errorf("%v: %s", err, out)
	}
	d.serves()
}

func TestTheDefaultConfigurationIsPrintedAndAccepted(t *testing.T) {
	d := newDaemon(t)
	out, err := d.command("config", "default").Output()
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(file, out, 0o600); err != nil {
		t.Fatal(err)
	}
	if c, err := seedpool.LoadConfig(file, true); err != nil || !reflect.DeepEqual(c, seedpool.Default()) {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWhatSproutdIsToldWronglyIsRefused(t *testing.T) {
	d := newDaemon(t)
	bad := filepath.Join(t.TempDir(), "c.toml")
	if err := os.WriteFile(bad, []byte("colour = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for want, args := range map[string][]string{
		"colour":            {"--config", bad},
		"no such file":      {"--config", bad + "x"},
		"config default":    {"serve"},
		"-nonsense":         {"-nonsense"},
		"mount namespace":   {"keeper", "--seed", "x", "--socket", filepath.Join(d.dir, "k.sock"), "--criu", "criu"},
		"flag needs an arg": {"--config"},
	} {
		out, err := d.command(args...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), want) {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
}

func TestSproutdEndsWhenAPortIsTaken(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d := newDaemon(t)
	file := filepath.Join(d.dir, "sproutd.toml")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(data, fmt.Sprintf("metrics_address = %q\n", l.Addr())...), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := d.command("--config", file).CombinedOutput()
	if err == nil || !strings.Contains(string(out), "metrics_address") {
		t.Errorf("%v: %s", err, out)
	}
}
