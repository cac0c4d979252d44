package linux

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

func TestWhatAnOfferingProcessStartsOffersItsMemoryToo(t *testing.T) {
	if err := CanOfferMemory(); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	c := exec.Command("/proc/self/exe")
	c.Env, c.Stdout = append(os.Environ(), roleEnv+"=offering"), &out
	if err := c.Run(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), "ksm_merge_any: yes") {
		t.Errorf("its child's: %s", out.String())
	}
	if merged, err := MergedMemory(c.ProcessState.Pid()); err == nil {
		t.Errorf("a process that has ended has %d bytes", merged)
	}
}

func TestPersonalityIsTheChildrensAlone(t *testing.T) {
	of := func(do func(func() error) error) string {
		t.Helper()
		var out []byte
		if err := do(func() (err error) {
			out, err = exec.Command("cat", "/proc/self/personality").Output()
			return err
		}); err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	if got := of(WithoutASLR); got != "00040000" {
		t.Errorf("without: %s", got)
	}
	if got := of(func(do func() error) error { return do() }); got != "00000000" {
		t.Errorf("afterwards: %s", got)
	}
}
