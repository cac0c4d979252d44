package restore

import (
	"bufio"
	_ "embed"
	"strings"
	"testing"
	"time"
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
		if said := b.restoreWitness(p, false); len(said) != 1 || said[0] != "done 0" {
			t.Errorf("instance %d: %s", n, strings.Join(said, "\n"))
		}
	}
	p := b.prepare(s)
	p.o.Memory = h.NewMemory()
	if said := b.restoreWitness(p, true); len(said) < 10 {
		t.Errorf("without anybody who serves its memory the witness says %q", said)
	}
}

// restoreWitness restores a witness, hears what it says and ends it. If it is forsaken, nobody serves its memory any more when it runs.
func (b *bed) restoreWitness(p *preparation, forsaken bool) []string {
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
	if forsaken {
		if err := p.o.Memory.Close(); err != nil {
			b.t.Error(err)
		}
	}
	said := tell(b.t, p)
	if err := p.o.Memory.Err(); err != nil {
		b.t.Error(err)
	}
	return said
}
