package fork

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sproutrun/sprout/seedpool/linux"
)

// forbid is a seccomp filter by which one call is EPERM: load the number, compare, return.
func forbid(nr uint32) (filter []byte) {
	for _, i := range []struct {
		code   uint16
		jt, jf uint8
		k      uint32
	}{{0x20, 0, 0, 0}, {0x15, 0, 1, nr}, {0x06, 0, 0, 0x50000 | 1}, {0x06, 0, 0, 0x7fff0000}} {
		filter = binary.LittleEndian.AppendUint16(filter, i.code)
		filter = binary.LittleEndian.AppendUint32(append(filter, i.jt, i.jf), i.k)
	}
	return filter
}

func TestEveryThreadOfACloneHasDroppedBeforeItsRelease(t *testing.T) {
	const caps, fchdir = 0xa80425fb, 81 // containers' usual set, and a call that nobody makes
	for name, args := range map[string][]string{
		"with no_new_privs":    {"/usr/bin/setpriv", "--no-new-privs"},
		"without no_new_privs": nil,
	} {
		script, err := filepath.Abs("testdata/witness.py")
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(file, []byte("0123456789"), 0o600); err != nil {
			t.Fatal(err)
		}
		pid := start(t, append(args, "/usr/bin/python3", script, file)...)
		template := makeDropping(t, pid, &Origin{Effective: caps, Permitted: caps, Filter: forbid(fchdir)})
		want, err := linux.ReadCreds(pid, pid)
		if err != nil {
			t.Fatal(err)
		}
		want.CapEff, want.CapPrm, want.Seccomp = caps, caps, 2
		c := makeClone(t, template)
		tids, err := linux.Threads(c.PID)
		if err != nil || len(tids) != 5 {
			t.Fatalf("threads %v, %v", tids, err)
		}
		for _, tid := range tids {
			got, err := linux.ReadCreds(c.PID, tid)
			if diff := cmp.Diff(want, got); err != nil || diff != "" {
				t.Errorf("%s: thread %d: %v: %s", name, tid, err, diff)
			}
			if filters := field(proc(t, c.PID, "task/%d/status", tid), "Seccomp_filters"); filters != "1" {
				t.Errorf("%s: thread %d has %s filters", name, tid, filters)
			}
		}
		release(t, c)
		if got := ask(t, c.PID); got.Count != 1 || got.Alive != 6 {
			t.Errorf("%s: %+v", name, got)
		}
		if mode := field(proc(t, pid, "status"), "Seccomp"); mode != "0" {
			t.Errorf("%s: the template has seccomp mode %s", name, mode)
		}
	}
}
