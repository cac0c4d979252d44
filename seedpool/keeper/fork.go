package keeper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/sproutrun/sprout/seedpool/fork"
	"github.com/sproutrun/sprout/seedpool/linux"
	"github.com/sproutrun/sprout/seedpool/restore"

	api "github.com/sproutrun/sprout/seedpool/api/v1"
)

// forked makes the process by cloning the seed's template.
func (m *making) forked(ctx context.Context) (pid int, err error) {
	from := time.Now()
	current := m.templates.current()
	template, err := current.get(ctx, m.config, m.request, m.spec)
	if err != nil {
		return 0, err
	}
	m.phase("template", from)
	sandbox, files, err := m.sandbox()
	defer closeFiles(files.Cgroup, files.Root)
	if err != nil {
		return 0, err
	}
	c, err := template.Clone(ctx, sandbox, files)
	if errors.Is(err, fork.ErrZygoteGone) {
		err = fmt.Errorf("%w: %w", err, m.templates.retire(current))
	}
	if err != nil {
		return 0, err
	}
	for _, p := range c.Phases {
		m.phases = append(m.phases, &api.Phase{Name: "fork." + p.Name, Nanoseconds: p.Took.Nanoseconds()})
	}
	from = time.Now()
	if err := m.hold(ctx, c); err != nil {
		return 0, errors.Join(err, c.Discard())
	}
	m.phase("hold", from)
	m.made.cloned, m.made.message.Cloned = true, true
	return c.PID, nil
}

// hold has a clone become the application and not run: its cgroup is frozen before it is let go.
func (m *making) hold(ctx context.Context, c *fork.Clone) error {
	// clone3 knows of the v2 hierarchy only.
	for _, pid := range c.PIDs() {
		if err := m.made.cgroup.AttachLegacy(pid); err != nil {
			return err
		}
	}
	if err := m.made.cgroup.Freeze(ctx); err != nil {
		return err
	}
	return errors.Join(c.Release(), c.Process().Close())
}

// sandbox is what the clone is to have of its own.
func (m *making) sandbox() (s fork.Sandbox, f fork.Files, err error) {
	v1, err := linux.Hierarchies()
	if err != nil {
		return s, f, err
	}
	if m.options.CgroupNS && len(v1) > 1 {
		return s, f, fmt.Errorf("a cgroup namespace on a host with v1 hierarchies: %w", restore.ErrNoTemplate)
	}
	s = fork.Sandbox{Root: true, Cgroup: true, CgroupNS: m.options.CgroupNS, Hostname: m.spec.Hostname}
	copy(f.Streams[:], m.options.Stdio[:])
	f.Net, f.IPC, f.UTS = m.options.NetNS, m.options.IPCNS, m.options.UTSNS
	s.JoinIPC, s.JoinUTS = f.IPC != nil, f.UTS != nil
	if f.Cgroup, err = m.made.cgroup.Open(); err != nil {
		return s, f, err
	}
	var inner []restore.InnerMount
	var tree *os.File
	if tree, inner, err = m.options.Staged.Tree(m.spec); err != nil {
		return s, f, err
	}
	f.Root = tree
	for _, i := range inner {
		s.Mounts = append(s.Mounts, fork.Mount{Source: i.Source, Target: i.Target, Type: i.Type, Flags: uint64(i.Flags), Data: i.Data})
	}
	return s, f, nil
}
