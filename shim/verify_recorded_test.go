package shim

import (
	"os"
	"testing"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

func TestRecordedCredentialsAreBelievedOnlyOfTheProcessesAsTheyAre(t *testing.T) {
	own := os.Getpid()
	c, err := linux.ReadCreds(own, own)
	if err != nil {
		t.Fatal(err)
	}
	threads, err := linux.Threads(own)
	if err != nil {
		t.Fatal(err)
	}
	four := func(ids [4]int) []int64 { return []int64{int64(ids[0]), int64(ids[1]), int64(ids[2]), int64(ids[3])} }
	record := func(change func(*api.Credentials)) *api.Instance {
		m := &api.Credentials{
			Threads: uint32(len(threads)), Uids: four(c.Uids), Gids: four(c.Gids), Inheritable: c.CapInh, Permitted: c.CapPrm, Effective: c.CapEff,
			Bounding: c.CapBnd, Ambient: c.CapAmb, NoNewPrivs: c.NoNewPrivs, Seccomp: int32(c.Seccomp),
		}
		for _, id := range c.Groups {
			m.Groups = append(m.Groups, int64(id))
		}
		change(m)
		return &api.Instance{Pid: uint32(own), Credentials: []*api.Credentials{m}}
	}
	for name, test := range map[string]struct {
		inst *api.Instance
		know int
	}{
		"none":          {&api.Instance{}, 0},
		"as they are":   {record(func(*api.Credentials) {}), 1},
		"other threads": {record(func(m *api.Credentials) { m.Threads += 1 << 10 }), 0},
		"less":          {record(func(m *api.Credentials) { m.Effective, m.Bounding = 0, 0 }), 0},
	} {
		known, err := recorded(test.inst, []int{own})
		if err != nil || len(known) != test.know {
			t.Errorf("%s: %v, %v", name, known, err)
		}
	}
}
