package linux

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

func TestProbesFindWhatThisMachineCan(t *testing.T) {
	for _, p := range Probes() {
		err := p.Run()
		if errors.Is(err, ErrUnknown) || err != nil && !p.Optional {
			t.Errorf("%s: %v", p.Name, err)
		}
		if p.Name == "" || p.Needs == "" || p.Fix == "" || strings.ContainsAny(p.Needs+p.Fix, "\n") {
			t.Errorf("%s: one line each is wanted: needs %q, fix %q", p.Name, p.Needs, p.Fix)
		}
	}
}

func TestProbesOfAPlainUserAreUnknownNotMissing(t *testing.T) {
	if os.Getenv(roleEnv) == "user" {
		for _, p := range Probes() {
			fmt.Printf("%s: %t\n", p.Name, errors.Is(p.Run(), ErrUnknown))
		}
		return
	}
	// The test binary lies where a plain user cannot go.
	dir := get[string](t)(os.MkdirTemp("/dev/shm", "sprout-linux-test-"))
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	must(t, os.Chmod(dir, 0o755))
	must(t, os.WriteFile(dir+"/test", get[[]byte](t)(os.ReadFile("/proc/self/exe")), 0o755))
	c := exec.Command(dir+"/test", "-test.run", "^"+t.Name()+"$")
	c.Dir = "/"
	c.Env = append(os.Environ(), roleEnv+"=user")
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, name := range []string{"cgroup v2 freezer", "start in a cgroup", "mounts into a running container", "overlay file system", "network namespaces"} {
		if !bytes.Contains(out, []byte(name+": true\n")) {
			t.Errorf("%s is not unknown:\n%s", name, out)
		}
	}
}
