package restore

import (
	"testing"
)

func TestTry(t *testing.T) {
	b := newBed(t, "python-demo")
	s := b.dump(b.boot(b.img.Spec(t)))
	t.Logf("%+v", s)
	for range 3 {
		i := b.restore(s)
		t.Log(i.phases)
		if err := i.cgroup.Thaw(); err != nil {
			t.Fatal(err)
		}
		t.Log(i.get("http://127.0.0.1:8080/pid"))
	}
}
