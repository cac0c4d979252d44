package pages

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/errdefs"
)

// The process that is killed is this test binary again. It works on a store and says what was acknowledged; at the n-th time that it passes the point it
// kills itself, or at any time somebody else does.
const (
	envDir   = "SPROUT_TEST_PAGES"
	envPoint = "SPROUT_TEST_POINT"
	envNth   = "SPROUT_TEST_NTH"
	envFirst = "SPROUT_TEST_FIRST"
)

// crashQuota has some of the images refused.
const crashQuota = 3 << 20

// pagesOf are the pages of the n-th image of the process: many are also those of others, some its own.
func pagesOf(n int) []int {
	own := 1000 + 100*n
	return append(append(numbers(n%7*40, n%7*40+250), 0), numbers(own, own+99)...)
}

// work puts and removes images until it is killed.
func work() {
	point, left := os.Getenv(envPoint), 0
	left, _ = strconv.Atoi(os.Getenv(envNth))
	first, _ := strconv.Atoi(os.Getenv(envFirst))
	s, err := open(os.Getenv(envDir), Options{Quota: crashQuota}, func(name string) {
		if name != point {
			return
		}
		if left--; left < 0 {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	ctx := context.Background()
	for n := first; err == nil; n++ {
		fmt.Printf("putting %d\n", n)
		_, err = s.Put(ctx, image(n), Source{"pages", bytes.NewReader(file(pagesOf(n)...))})
		if errdefs.IsResourceExhausted(err) {
			fmt.Printf("refused %d\n", n)
			for old := range n {
				fmt.Printf("removing %d\n", old)
				if err = s.Remove(ctx, image(old)); err != nil {
					break
				}
				fmt.Printf("removed %d\n", old)
			}
		} else if err == nil {
			fmt.Printf("put %d\n", n)
			if n%3 == 2 {
				fmt.Printf("removing %d\n", n-1)
				err = s.Remove(ctx, image(n-1))
				fmt.Printf("removed %d\n", n-1)
			}
		}
		if err == nil {
			_, err = s.Collect(ctx)
		}
	}
	fmt.Fprintln(os.Stderr, "not killed:", err)
	os.Exit(1)
}

// crashing runs the process until it is killed, by itself or after some time, and gives what it said last of each image.
func (b *bed) crashing(point string, nth, first int, after time.Duration) map[int]string {
	b.t.Helper()
	must(b.t, b.Close())
	said := b.killed(point, nth, first, after)
	b.open(b.dir)
	return said
}

// killed is crashing without a store of our own.
func (b *bed) killed(point string, nth, first int, after time.Duration) map[int]string {
	b.t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envDir+"="+b.dir, envPoint+"="+point, fmt.Sprintf("%s=%d", envNth, nth), fmt.Sprintf("%s=%d", envFirst, first))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	must(b.t, cmd.Start())
	if after > 0 {
		defer time.AfterFunc(after, func() { _ = cmd.Process.Kill() }).Stop()
	}
	err := cmd.Wait()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || status.Signal() != syscall.SIGKILL {
		b.t.Fatalf("%v: %s", err, stderr.String())
	}
	said := make(map[int]string)
	for scan := bufio.NewScanner(&stdout); scan.Scan(); {
		what, number, _ := strings.Cut(scan.Text(), " ")
		if n, err := strconv.Atoi(number); err == nil {
			said[n] = what
		}
	}
	return said
}

// holds checks that what was acknowledged is so, that nothing else is half there, and that nothing is left over.
func (b *bed) holds(said map[int]string) {
	b.t.Helper()
	for n, what := range said {
		data, err := get(b.Store, b.ctx, image(n), "pages")
		there := err == nil && bytes.Equal(data, file(pagesOf(n)...))
		if !there && !errors.Is(err, errdefs.ErrNotFound) {
			b.t.Errorf("image %d, %s: neither there nor gone: %v", n, what, err)
		}
		if what == "put" && !there || (what == "removed" || what == "refused") && there {
			b.t.Errorf("image %d was %s: there %v", n, what, there)
		}
	}
	b.clean()
}

func TestKill9AtAnyPointLosesNothingAndLeavesNothing(t *testing.T) {
	for point, times := range map[string][]int{
		"frame written": {0, 3, 8, 30}, "packs synced": {0, 2, 5, 9}, "pack renamed": {0, 2, 5, 9}, "manifest synced": {0, 2, 5}, "files written": {0, 2, 5},
		"committed": {0, 2, 3, 4, 9}, "file removed": {0, 1, 2, 3, 8}, "pages copied": {0, 1, 2},
	} {
		t.Run(point, func(t *testing.T) {
			b := newBed(t)
			b.quota = crashQuota
			first := 0
			for _, nth := range times {
				said := b.crashing(point, nth, first, 0)
				b.holds(said)
				for n := range said {
					first = max(first, n+1)
				}
			}
		})
	}
}

func TestKill9OfARecoveryIsNoMatter(t *testing.T) {
	b := newBed(t)
	b.put(image(1000), numbers(1, 50)...)
	strays := []string{"packs/00000000000000aa.pack", "packs/00000000000000ab.pack.new", "manifests/00000000000000ac.manifest"}
	for _, name := range strays {
		must(t, os.WriteFile(b.path(name), []byte("stray"), 0o600))
	}
	must(t, os.WriteFile(b.path("packs/README"), []byte("not ours"), 0o600))
	b.crashing("stray removed", 1, 0, 0)
	b.has(image(1000), numbers(1, 50)...)
	b.clean()
	want(t, "what is not ours", len(b.files()), 3)
}

func TestKill9WhileTheIndexIsMadeAgainLosesNothing(t *testing.T) {
	for _, point := range []string{"index rebuilt", "index set aside"} {
		t.Run(point, func(t *testing.T) {
			b := newBed(t)
			b.put(image(1000), numbers(1, 300)...)
			must(t, b.Close())
			must(t, os.WriteFile(b.path(indexName), []byte("no index"), 0o600))
			b.killed(point, 0, 0, 0)
			b.open(b.dir)
			b.has(image(1000), numbers(1, 300)...)
			b.clean()
		})
	}
}

func TestKill9AtAnyTimeLosesNothingAndLeavesNothing(t *testing.T) {
	b := newBed(t)
	b.quota = crashQuota
	random := rand.New(rand.NewPCG(1, 2))
	first := 0
	for range 12 {
		said := b.crashing("", 0, first, time.Duration(20+random.IntN(280))*time.Millisecond)
		b.holds(said)
		for n := range said {
			first = max(first, n+1)
		}
	}
}
