package seedpool

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"syscall"

	"github.com/prometheus/procfs"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
	"github.com/sproutrun/sprout/seedpool/linux"
)

// Kinds of what has memory.
const (
	kindContainer = "container"
	kindSpare     = "spare"
	kindTemplate  = "template"
	kindKeeper    = "keeper"
)

// usage measures the memory of all containers that were started by sprout, and of what stands behind them. What ends meanwhile is left out.
func (p *Pool) usage(ctx context.Context, namespace string) ([]*api.Usage, error) {
	list, err := p.containerUsage(namespace)
	if err != nil {
		return nil, err
	}
	list = append(list, p.behind(namespace)...)
	var measured []*api.Usage
	for _, m := range list {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := m.measure(); err != nil {
			return nil, err
		}
		if m.Processes > 0 {
			measured = append(measured, m.Usage)
		}
	}
	slices.SortFunc(measured, func(a, b *api.Usage) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Seed, b.Seed), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Id, b.Id))
	})
	return measured, nil
}

// measurable is a usage and where its processes are.
type measurable struct {
	*api.Usage
	cgroups []linux.Cgroup
	pid     int64
}

func (m *measurable) measure() error {
	var pids []int
	if m.pid != 0 {
		pids = append(pids, int(m.pid))
	}
	for _, c := range m.cgroups {
		below, err := c.ProcsBelow()
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		pids = append(pids, below...)
	}
	for _, pid := range pids {
		process, err := procfs.NewProc(pid)
		var use procfs.ProcSMapsRollup
		if err == nil {
			use, err = process.ProcSMapsRollup()
		}
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue
		}
		if err != nil {
			return err
		}
		m.Processes++
		m.Logical += use.Rss
		m.Physical += use.Pss
		m.Private += use.PrivateClean + use.PrivateDirty
		if merged, err := linux.MergedMemory(pid); err == nil { // else it has ended, or the kernel has no KSM
			m.Merged += merged
		}
	}
	return nil
}

// containerUsage finds the containers by the records of their starts.
func (p *Pool) containerUsage(namespace string) (list []*measurable, err error) {
	err = p.eachStart(namespace, func(_ string, start *api.Start) error {
		cgroup, err := linux.UnifiedPath(int(start.Pid))
		if err != nil || cgroup == "/" {
			return nil // it has ended, and its shim removes the record; its number may be another's already
		}
		list = append(list, &measurable{
			Usage:   &api.Usage{Namespace: start.Namespace, Seed: p.seedName(start.Seed), Kind: kindContainer, Id: start.Id, Rung: start.Rung},
			cgroups: []linux.Cgroup{{Path: cgroup}},
		})
		return nil
	})
	return list, err
}

// seedName is the name of a seed; one that was removed keeps its id.
func (p *Pool) seedName(id string) string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.seeds[id]; s != nil {
		return s.meta.Info.Name
	}
	return id
}

// behind lists spares, templates and keepers.
func (p *Pool) behind(namespace string) (list []*measurable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.seeds {
		info := s.meta.Info
		if namespace != "" && info.Namespace != namespace {
			continue
		}
		of := func(kind, id string) *measurable {
			return &measurable{Usage: &api.Usage{Namespace: info.Namespace, Seed: info.Name, Kind: kind, Id: id}}
		}
		for _, i := range s.ready {
			spare := of(kindSpare, i.id)
			spare.cgroups = append(spare.cgroups, linux.Cgroup{Path: i.row.Instance.Cgroup})
			list = append(list, spare)
		}
		if s.keeperPID != 0 {
			keeper := of(kindKeeper, "")
			keeper.pid = s.keeperPID
			list = append(list, keeper)
		}
		if s.fork.stands {
			template := of(kindTemplate, "")
			template.cgroups = append(template.cgroups, p.templateCgroup(s.id))
			list = append(list, template)
		}
	}
	return list
}
