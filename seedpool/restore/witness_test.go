package restore

import (
	"bufio"
	_ "embed"
	"errors"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sproutrun/sprout/seedpool/linux"
)

//go:embed testdata/witness.py
var witness string

// tell has the witness check its memory and returns what it says.
func tell(t *testing.T, p *preparation) (said []string) {
	t.Helper()
	if err := p.cgroup.Thaw(); err != nil {
		t.Fatal(err)
	}
	if _, err := p.stdin[1].WriteString("\n"); err != nil {
		t.Fatal(err)
	}
	if err := p.stdout.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(p.stdout)
	for lines.Scan() {
		said = append(said, lines.Text())
		if strings.HasPrefix(lines.Text(), "done") {
			return said
		}
	}
	t.Fatalf("it ends early: %v: %s", lines.Err(), strings.Join(said, "\n"))
	return nil
}

func TestSharedMemoryBehavesAsAnonymousMemory(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t, "python3", "-c", witness)))
	h := b.heat(s)
	for n := range 3 {
		p := b.prepare(s)
		if n > 0 { // the first has a copy of its own, and says that the witness is right
			p.o.Memory = h.NewMemory()
		}
		if said := b.restoreWitness(p, nil); len(said) != 1 || said[0] != "done 0" {
			t.Errorf("instance %d: %s", n, strings.Join(said, "\n"))
		}
	}
	p := b.prepare(s)
	p.o.Memory = h.NewMemory()
	forsake := func() {
		if err := checkRegistered(p.cgroup); err != nil {
			t.Error(err)
		}
		if err := p.o.Memory.Close(); err != nil {
			t.Error(err)
		}
		if err := checkRegistered(p.cgroup); !errors.Is(err, errStray) {
			t.Errorf("an instance that nobody serves: %v", err)
		}
	}
	if said := b.restoreWitness(p, forsake); len(said) < 10 {
		t.Errorf("without anybody who serves its memory the witness says %q", said)
	}
}

func TestMemoryIsServedByItsSecondHolder(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t, "python3", "-c", witness)))
	p := b.prepare(s)
	p.o.Memory = b.heat(s).NewMemory()
	door := filepath.Join(t.TempDir(), "memory")
	if err := p.o.Memory.Offer(door); err != nil {
		t.Fatal(err)
	}
	var second *Holder
	said := b.restoreWitness(p, func() {
		var err error
		if second, err = Hold(t.Context(), door, p.cgroup); err != nil {
			t.Fatal(err)
		}
		if err := p.o.Memory.Close(); err != nil {
			t.Error(err)
		}
	})
	if len(said) != 1 || said[0] != "done 0" {
		t.Error(strings.Join(said, "\n"))
	}
	if err := errors.Join(second.Err(), second.Close()); err != nil {
		t.Error(err)
	}
	if _, err := Hold(t.Context(), door, p.cgroup); err == nil {
		t.Error("memory that is gone can be held")
	}
}

func TestProcessThatNobodyIsToldOfIsFoundWhenTheKeeperHasDied(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t)))
	p := b.prepare(s)
	p.o.Memory = b.heat(s).NewMemory()
	door := filepath.Join(t.TempDir(), "memory")
	if err := p.o.Memory.Offer(door); err != nil {
		t.Fatal(err)
	}
	i, err := p.restore(t.Context(), b.criu)
	if err != nil {
		t.Fatal(report(err))
	}
	defer i.wait()
	defer i.cgroup.Kill()
	second, err := Hold(t.Context(), door, p.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	// As if they had been those of children of which the keeper was told, and did not come to tell us.
	second.mu.Lock()
	if err := second.held.close(); err != nil {
		t.Error(err)
	}
	second.mu.Unlock()
	// This process serves; one that has ended is the keeper.
	dead := exec.Command("true")
	if err := dead.Start(); err != nil {
		t.Fatal(err)
	}
	pidfd, err := linux.OpenPidfd(dead.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(dead.Wait(), second.keeper.Close()); err != nil {
		t.Fatal(err)
	}
	second.keeper = pidfd
	if err := p.o.Memory.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-second.Lost():
	case <-time.After(5 * time.Second):
		t.Fatal("nobody says so")
	}
	if err := second.Err(); !errors.Is(err, errStray) {
		t.Error(err)
	}
}

func TestMemoryIsLostWhenItsSecondHolderGoes(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t)))
	p := b.prepare(s)
	p.o.Memory = b.heat(s).NewMemory()
	door := filepath.Join(t.TempDir(), "memory")
	if err := p.o.Memory.Offer(door); err != nil {
		t.Fatal(err)
	}
	i, err := p.restore(t.Context(), b.criu)
	if err != nil {
		t.Fatal(report(err))
	}
	defer p.o.Memory.Close()
	defer i.wait()
	defer i.cgroup.Kill()
	second, err := Hold(t.Context(), door, p.cgroup)
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-p.o.Memory.Lost():
		t.Fatal(p.o.Memory.Err())
	default:
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	select {
	case <-p.o.Memory.Lost():
	case <-time.After(5 * time.Second):
		t.Fatal("nobody says so")
	}
	if err := p.o.Memory.Err(); !errors.Is(err, errLeft) {
		t.Error(err)
	}
}

// restoreWitness restores a witness, hears what it says and ends it. Before it runs, change is called, which may close its memory.
func (b *bed) restoreWitness(p *preparation, change func()) []string {
	b.t.Helper()
	i, err := p.restore(b.t.Context(), b.criu)
	if err != nil {
		b.t.Fatal(report(err))
	}
	if p.o.Memory != nil {
		defer p.o.Memory.Close()
	}
	defer i.wait()
	defer i.cgroup.Kill()
	if p.o.Memory == nil {
		return tell(b.t, p)
	}
	if change != nil {
		change()
	}
	said := tell(b.t, p)
	if err := p.o.Memory.Err(); err != nil {
		b.t.Error(err)
	}
	return said
}
