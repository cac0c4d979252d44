package keeper

import (
	"reflect"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// readCredentials reads those of all threads of the given processes. Of frozen ones they stay true: nobody but a thread itself changes its credentials.
func readCredentials(pids []int) ([]*api.Credentials, error) {
	var list []*api.Credentials
	var seen []linux.Creds
	for _, pid := range pids {
		tids, err := linux.Threads(pid)
		if err != nil {
			return nil, err
		}
		for _, tid := range tids {
			c, err := linux.ReadCreds(pid, tid)
			if err != nil {
				return nil, err
			}
			at := 0
			for at < len(seen) && !reflect.DeepEqual(seen[at], c) {
				at++
			}
			if at == len(seen) {
				seen, list = append(seen, c), append(list, credentialsOf(c))
			}
			list[at].Threads++
		}
	}
	return list, nil
}

func credentialsOf(c linux.Creds) *api.Credentials {
	return &api.Credentials{
		Uids: wide(c.Uids[:]), Gids: wide(c.Gids[:]), Groups: wide(c.Groups),
		Inheritable: c.CapInh, Permitted: c.CapPrm, Effective: c.CapEff, Bounding: c.CapBnd, Ambient: c.CapAmb,
		NoNewPrivs: c.NoNewPrivs, Seccomp: int32(c.Seccomp),
	}
}

// CredsOf is what readCredentials has read, as it was.
func CredsOf(m *api.Credentials) linux.Creds {
	c := linux.Creds{
		Groups: narrow(m.Groups), CapInh: m.Inheritable, CapPrm: m.Permitted, CapEff: m.Effective, CapBnd: m.Bounding, CapAmb: m.Ambient,
		NoNewPrivs: m.NoNewPrivs, Seccomp: int(m.Seccomp),
	}
	copy(c.Uids[:], narrow(m.Uids))
	copy(c.Gids[:], narrow(m.Gids))
	return c
}

func wide(ids []int) []int64 {
	list := make([]int64, len(ids))
	for n, id := range ids {
		list[n] = int64(id)
	}
	return list
}

func narrow(ids []int64) []int {
	list := make([]int, len(ids))
	for n, id := range ids {
		list[n] = int(id)
	}
	return list
}
