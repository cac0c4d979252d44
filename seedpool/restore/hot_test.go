package restore

import (
	"context"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
)

// heat makes a seed hot.
func (b *bed) heat(s *seed) *Hot {
	b.t.Helper()
	h, err := NewHot(s.images)
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { _ = h.Close() })
	return h
}

// restoreHot makes an instance that shares its memory; it is killed and its memory closed when the test ends.
func (b *bed) restoreHot(s *seed, h *Hot) (*instance, *Memory) {
	b.t.Helper()
	i, m, err := b.tryRestoreHot(b.t.Context(), s, h)
	if err != nil {
		b.t.Fatal(report(err))
	}
	return i, m
}

func (b *bed) tryRestoreHot(ctx context.Context, s *seed, h *Hot) (*instance, *Memory, error) {
	p := b.prepare(s)
	p.o.Memory = h.NewMemory()
	i, err := p.restore(ctx, b.criu)
	if err == nil {
		b.t.Cleanup(func() {
			_ = i.cgroup.Kill()
			_, _ = i.wait()
			if err := p.o.Memory.Close(); err != nil {
				b.t.Error(err)
			}
			if err := p.o.Memory.Err(); err != nil {
				b.t.Error(err)
			}
		})
	}
	return i, p.o.Memory, err
}

// pss is what a cgroup's processes take of memory, in KiB: what is shared counts in part for each.
func (i *instance) pss(t *testing.T) (kib int) {
	t.Helper()
	pids, err := i.cgroup.Procs()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range pids {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range strings.Split(string(data), "\n") {
			var n int
			if _, err := fmt.Sscanf(line, "Pss: %d kB", &n); err == nil {
				kib += n
			}
		}
	}
	return kib
}

// report of where the time went.
func spent(phases []Phase) string {
	var all time.Duration
	var text []string
	for _, p := range phases {
		all += p.Took
		text = append(text, fmt.Sprintf("%s %.1f", p.Name, float64(p.Took.Microseconds())/1e3))
	}
	return fmt.Sprintf("%.1f ms: %s", float64(all.Microseconds())/1e3, strings.Join(text, ", "))
}

func TestTenInstancesShareOneMemory(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t)))
	alone := b.restore(s)
	answers := func(i *instance) {
		t.Helper()
		if err := i.cgroup.Thaw(); err != nil {
			t.Fatal(err)
		}
		if body, err := i.get("http://127.0.0.1:8080/pid"); err != nil || body != "1" {
			t.Fatalf("answer %q, %v", body, err)
		}
	}
	answers(alone)
	one := alone.pss(t)
	t.Logf("eager: %s; %d MiB", spent(alone.phases), one>>10)
	if err := syscall.Kill(alone.pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h := b.heat(s)
	var all []*instance
	for range 10 {
		i, _ := b.restoreHot(s, h)
		answers(i)
		t.Logf("hot: %s", spent(i.phases))
		all = append(all, i)
	}
	sum := 0
	for _, i := range all {
		sum += i.pss(t)
	}
	t.Logf("ten: %d MiB, store %d MiB", sum>>10, h.Bytes()>>20)
	if sum > one*2 {
		t.Errorf("ten instances take %d MiB, one that shares nothing %d", sum>>10, one>>10)
	}
}
