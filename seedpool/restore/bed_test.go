package restore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/sproutrun/sprout/seedpool/imagetest"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// inNamespace tells the test binary that it has a mount namespace of its own already, and a directory for what CRIU needs in it.
const inNamespace = "SPROUT_TEST_MOUNTS"

// TestMain runs the tests where Restore runs: in a mount namespace of their own that is fit for CRIU.
func TestMain(m *testing.M) {
	dir := os.Getenv(inNamespace)
	if dir == "" {
		os.Exit(inOwnNamespace())
	}
	err := errors.Join(linux.FollowMounts(), Isolate(dir), showOwn())
	if os.Getenv(onlyV2) != "" {
		err = errors.Join(err, linux.Mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, ""))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// showOwn shows what the tests themselves use, if it lies in the host's /tmp: the checkout, the build directory, the files that their arguments name.
func showOwn() error {
	wd, err := os.Getwd()
	if err != nil {
		return err
	}
	paths := []string{wd, os.Getenv("SPROUT_OUT")}
	for _, arg := range os.Args {
		_, value, _ := strings.Cut(arg, "=")
		paths = append(paths, value)
	}
	return show(paths...)
}

// onlyV2 has the tests run as on a host without v1 hierarchies.
const onlyV2 = "SPROUT_TEST_ONLY_V2"

func TestAllIsTheSameOnAHostWithCgroupV2Only(t *testing.T) {
	if os.Getenv(onlyV2) != "" {
		return
	}
	cmd := exec.Command("/proc/self/exe", "-test.run", "Mounts|Instruction|CgroupNamespace|Cancelled|EndsWith", "-test.v")
	// The directory is our own namespace's: they make another.
	cmd.Env = append(os.Environ(), onlyV2+"=1", inNamespace+"=")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func inOwnNamespace() int {
	dir, err := os.MkdirTemp("", "restore-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inNamespace+"="+dir, "TMPDIR="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	// What is mounted below the directory goes with the namespace.
	if err := errors.Join(cmd.Run(), os.RemoveAll(dir)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// bed is the ground of one test: a directory, a cgroup, and CRIU.
type bed struct {
	t    *testing.T
	dir  string
	root linux.Cgroup
	criu CRIU
	img  *imagetest.Image
	n    int
}

func newBed(t *testing.T, image string) *bed {
	t.Helper()
	dir, err := os.MkdirTemp("", "restore-")
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{t: t, dir: dir, root: linux.Cgroup{Path: "/sprout-test-" + filepath.Base(dir)}, img: imagetest.Get(t, image)}
	b.criu.Path = imagetest.Tool(t, "criu")
	if err := b.criu.Warm(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.remove)
	return b
}

func (b *bed) remove() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := errors.Join(b.root.Kill(), b.root.WaitEmpty(ctx), b.root.Remove()); err != nil {
		b.t.Error(err)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), b.dir) {
		b.t.Errorf("mounts are left, %v", err)
	}
	if err := os.RemoveAll(b.dir); err != nil {
		b.t.Error(err)
	}
}

// cgroup makes one below the test's.
func (b *bed) cgroup(name string) linux.Cgroup {
	b.t.Helper()
	c := linux.Cgroup{Path: b.root.Path + "/" + name}
	if err := c.Create(); err != nil {
		b.t.Fatal(err)
	}
	return c
}

// subdir makes a fresh directory.
func (b *bed) subdir(name string) string {
	b.t.Helper()
	b.n++
	dir := filepath.Join(b.dir, fmt.Sprintf("%s-%d", name, b.n))
	if err := os.Mkdir(dir, 0o700); err != nil {
		b.t.Fatal(err)
	}
	return dir
}

// overlay is a fresh writable layer over further layers and the image, and its upper directory.
func (b *bed) overlay(over ...string) (options []string, upper string) {
	b.t.Helper()
	dir := b.subdir("layer")
	upper = filepath.Join(dir, "upper")
	for _, d := range []string{upper, filepath.Join(dir, "work")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			b.t.Fatal(err)
		}
	}
	lower := strings.Join(append(over, b.img.Layers...), ":")
	return []string{"lowerdir=" + lower, "upperdir=" + upper, "workdir=" + filepath.Join(dir, "work")}, upper
}

// container is one that runc runs.
type container struct {
	pid    int
	spec   *specs.Spec
	upper  string
	cgroup linux.Cgroup
	stdout *os.File
	ended  chan error
}

// shell waits in a shell, for which the base layer is enough.
var shell = []string{"sh", "-c", "echo up; exec sleep 1000"}

// boot has runc run a container with pipes for standard streams and waits for its first line.
func (b *bed) boot(spec *specs.Spec) *container {
	b.t.Helper()
	c := b.launch(spec)
	line := make([]byte, 256)
	if n, err := c.stdout.Read(line); err != nil || strings.Contains(string(line[:n]), ": ") {
		b.t.Fatalf("read from container: %q, %v", line[:n], err)
	}
	return c
}

// launch has runc run a container.
func (b *bed) launch(spec *specs.Spec) *container {
	b.t.Helper()
	bundle := b.subdir("bundle")
	overlay, upper := b.overlay()
	c := &container{spec: spec, upper: upper, cgroup: linux.Cgroup{Path: b.root.Path + "/" + filepath.Base(bundle)}, ended: make(chan error, 1)}
	spec.Root.Path, spec.Linux.CgroupsPath = "rootfs", c.cgroup.Path
	data, err := json.Marshal(spec)
	if err != nil {
		b.t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(bundle+"/rootfs", 0o755), os.WriteFile(bundle+"/config.json", data, 0o600), linux.Overlay(bundle+"/rootfs", overlay)); err != nil {
		b.t.Fatal(err)
	}
	// In the container's namespace its root stays mounted.
	defer linux.Unmount(bundle + "/rootfs")
	stdin, out := b.pipe(), b.pipe()
	c.stdout = out[0]
	cmd := exec.Command(imagetest.Tool(b.t, "runc"), "--root", bundle+"/runc", "run", "--bundle", bundle, "--pid-file", bundle+"/pid", filepath.Base(bundle))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin[0], out[1], out[1]
	if err := cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	_ = out[1].Close()
	go func() { c.ended <- cmd.Wait() }()
	for c.pid == 0 {
		if data, err := os.ReadFile(bundle + "/pid"); err == nil {
			c.pid, _ = strconv.Atoi(string(data))
		}
		select {
		case err := <-c.ended:
			said, _ := io.ReadAll(c.stdout)
			b.t.Fatalf("runc: %v: %s", err, said)
		case <-time.After(time.Millisecond):
		}
	}
	return c
}

func (b *bed) pipe() [2]*os.File {
	b.t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _, _ = r.Close(), w.Close() })
	return [2]*os.File{r, w}
}

// seed is an image and what belongs to it.
type seed struct {
	images string
	spec   *specs.Spec
	upper  string
	Dumped
}

// dump makes a seed of a container.
func (b *bed) dump(c *container) *seed {
	b.t.Helper()
	s, err := b.tryDump(c)
	if err != nil {
		b.t.Fatal(report(err))
	}
	if err := <-c.ended; err == nil {
		b.t.Error("the container has ended as it should after all")
	}
	return s
}

func (b *bed) tryDump(c *container) (*seed, error) {
	s := &seed{images: b.subdir("images"), spec: c.spec, upper: c.upper}
	dumped, err := Dump(b.t.Context(), b.criu, DumpOptions{PID: c.pid, ImagesDir: s.images, WorkDir: b.subdir("work"), Spec: c.spec})
	s.Dumped = dumped
	return s, err
}

func report(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return fmt.Sprintf("%v\n%s", err, strings.Join(e.Log, "\n"))
	}
	return err.Error()
}

// instance is a restored seed.
type instance struct {
	pid    int
	cgroup linux.Cgroup
	netns  *os.File
	stdout *os.File
	upper  string
	phases []Phase
}

// restore makes an instance of a seed; it must succeed.
func (b *bed) restore(s *seed) *instance {
	b.t.Helper()
	i, err := b.tryRestore(b.t.Context(), s)
	if err != nil {
		b.t.Fatal(report(err))
	}
	return i
}

func (b *bed) tryRestore(ctx context.Context, s *seed) (*instance, error) {
	return b.prepare(s).restore(ctx, b.criu)
}

// preparation is all that a restore needs.
type preparation struct {
	instance
	staged *Staged
	o      Options
	stdin  [2]*os.File
	out    *os.File
}

// prepare stages an instance of a seed.
func (b *bed) prepare(s *seed) *preparation {
	b.t.Helper()
	dir := b.subdir("instance")
	overlay, upper := b.overlay(s.upper)
	p := &preparation{instance: instance{cgroup: b.cgroup(filepath.Base(dir)), upper: upper}, stdin: b.pipe()}
	ns, err := linux.NewNetNS()
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = ns.Close() })
	out := b.pipe()
	p.netns, p.stdout, p.out = ns, out[0], out[1]
	from := time.Now()
	p.staged, err = Stage(StageOptions{Dir: dir, ImagesDir: s.images, Overlay: overlay, Spec: s.spec, Cgroup: p.cgroup})
	if err != nil {
		b.t.Fatal(err)
	}
	p.phases = []Phase{{"stage", time.Since(from)}}
	p.o = Options{
		ImagesDir: s.images, WorkDir: dir, Staged: p.staged, NetNS: ns, Cgroup: p.cgroup, Aside: b.cgroup("aside"), CgroupNS: HasCgroupNS(s.spec),
		StdioKeys: s.StdioKeys, Stdio: [3]*os.File{p.stdin[0], out[1], out[1]},
	}
	return p
}

func (p *preparation) restore(ctx context.Context, criu CRIU) (*instance, error) {
	pid, phases, err := Restore(ctx, criu, p.o)
	from := time.Now()
	err = errors.Join(err, p.staged.Unstage())
	p.pid, p.phases = pid, append(append(p.phases, phases...), Phase{"unstage", time.Since(from)})
	_ = p.out.Close()
	_ = p.stdin[0].Close()
	return &p.instance, err
}

// get asks the instance over HTTP from inside its network namespace.
func (i *instance) get(url string) (string, error) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, addr string) (conn net.Conn, err error) {
		err = linux.Enter([]linux.NS{{Type: syscall.CLONE_NEWNET, File: i.netns}}, func() error {
			conn, err = net.Dial(network, addr)
			return err
		})
		return conn, err
	}}}
	resp, err := client.Get(url)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return string(body), err
}

// wait reaps the instance, which is our child.
func (i *instance) wait() (status syscall.WaitStatus, err error) {
	_, err = syscall.Wait4(i.pid, &status, 0, nil)
	return status, err
}
